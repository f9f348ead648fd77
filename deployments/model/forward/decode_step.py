"""One more token for every row: the forward pass of a decode step, at any shape or at a few fixed ones.

Shape legend: R rows, A rotary axes, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch

from deployments.errors import InternalError
from deployments.model.families.family import Family
from deployments.model.kv_cache.cache import SlotCache
from deployments.model.kv_cache.spans import DecodeSpan
from deployments.model.multimodal.uploads import Uploads

WIDTH_STEP = 64
"""Decode steps look at a multiple of so many positions, so that their shapes repeat."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a decode step knows of one slot."""

    token_id: int
    """The newest token; its key and value are not in the cache yet."""
    length: int
    """Tokens in the cache. An idle row's step writes there too: a place that its next prefill chunk fills anew."""
    position_offsets: tuple[float, ...]
    """What to add to `length` to get the token's rotary position, by axis."""
    active: bool


IDLE = Row(0, 0, (0, 0, 0), active=False)
"""Of a slot that nobody owns."""


def step_inputs(rows: list[Row], num_axes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """On the host: (token id, length, active) int64 [R, 3], and rotary positions [A, R]."""
    columns = torch.tensor([(row.token_id, row.length, row.active) for row in rows])
    return columns, torch.tensor(
        [[row.length + row.position_offsets[axis] for row in rows] for axis in range(num_axes)]
    )


def step_width(rows: list[Row], max_length: int) -> int:
    """How many positions a step of these rows looks at."""
    longest = max(row.length for row in rows if row.active) + 1
    return min(-(-longest // WIDTH_STEP) * WIDTH_STEP, max_length)


class DecodeStep:
    """Runs each step at its own shape. Belongs to the engine's thread."""

    def __init__(self, family: Family, cache: SlotCache, uploads: Uploads) -> None:
        self._family = family
        self._cache = cache
        self._uploads = uploads

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(rows, tokens in the cache) of steps that are worth a first run before there are requests."""
        return [(rows, 1) for rows in self._row_counts()]

    def num_rows(self, used: int) -> int:
        """How many rows a step has which must have `used` ones."""
        return used

    def run(self, rows: list[Row]) -> torch.Tensor:
        """Logits [R, V] for the cache's first R slots, meaningless where a row idles; at least one is active."""
        columns, places = step_inputs(rows, self._family.num_axes)
        width = step_width(rows, self._cache.max_length)
        all_active = all(row.active for row in rows)
        return self._forward(self._uploads.put(columns), self._uploads.put(places), width, all_active=all_active)

    def _row_counts(self) -> list[int]:
        """Powers of two up to the number of slots, and that number itself."""
        slots = self._cache.num_slots
        return sorted({min(1 << exponent, slots) for exponent in range(slots.bit_length() + 1)})

    def _forward(self, columns: torch.Tensor, places: torch.Tensor, width: int, *, all_active: bool) -> torch.Tensor:
        ids_R, lengths_R, active_R = columns.T
        positions = places[:, :, None]
        span = DecodeSpan(lengths_R, width, active_R.bool(), all_active)
        self._cache.at(span)
        result = self._family.model(
            input_ids=ids_R[:, None],
            attention_mask=self._family.mask(self._cache.decode_masks(span, self._family.model.dtype)),
            position_ids=positions if len(places) > 1 else positions[0],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache.done()
        logits_RV: torch.Tensor = result.logits[:, -1].float()
        return logits_RV


@dataclass(slots=True)
class _Captured:
    """A step of one shape: inputs at fixed addresses, and on a GPU the kernels that were launched for them."""

    columns: torch.Tensor
    places: torch.Tensor
    graph: Any
    logits_RV: torch.Tensor


class FixedDecodeStep(DecodeStep):
    """Rounds shapes up to powers of two and replays each as a CUDA graph: nothing of a step is left to Python.

    On a CPU the shapes and the inputs are as fixed, and the forward pass runs as ever. Raises `InternalError` for
    families whose layers do different things in different steps.
    """

    def __init__(self, family: Family, cache: SlotCache, uploads: Uploads) -> None:
        super().__init__(family, cache, uploads)
        if not cache.same_every_step:
            raise InternalError(f"decode_graphs: steps of the family {family.name!r} can not be replayed")
        self._captured: dict[tuple[int, int, torch.dtype], _Captured] = {}
        self._pool: Any = None

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """All there are, the widest first: later captures find their memory among what earlier ones used."""
        longest = self._cache.max_length
        widths = {self.width(min(WIDTH_STEP << exponent, longest)) for exponent in range(longest.bit_length())}
        return [(rows, width - 1) for width in sorted(widths, reverse=True) for rows in reversed(self._row_counts())]

    def num_rows(self, used: int) -> int:
        return min(1 << (used - 1).bit_length(), self._cache.num_slots)

    def width(self, longest: int) -> int:
        """How many positions a step looks at which must look at `longest` ones."""
        steps = -(-longest // WIDTH_STEP)
        return min(WIDTH_STEP << (steps - 1).bit_length(), self._cache.max_length)

    def run(self, rows: list[Row]) -> torch.Tensor:
        columns, places = step_inputs(rows, self._family.num_axes)
        width = self.width(max(row.length for row in rows if row.active) + 1)
        key = (len(rows), width, places.dtype)
        if key not in self._captured:
            self._captured[key] = self._capture(self._uploads.put(columns), self._uploads.put(places), width)
        step = self._captured[key]
        step.columns.copy_(self._uploads.put(columns))
        step.places.copy_(self._uploads.put(places))
        if step.graph is None:
            return self._forward(step.columns, step.places, width, all_active=True)
        step.graph.replay()
        return step.logits_RV

    def _capture(self, columns: torch.Tensor, places: torch.Tensor, width: int) -> _Captured:
        columns, places = columns.clone(), places.clone()
        # Once outside of the capture: libraries set themselves up at their first call.
        logits_RV = self._forward(columns, places, width, all_active=True)
        if columns.device.type != "cuda":
            return _Captured(columns, places, None, logits_RV)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                logits_RV = self._forward(columns, places, width, all_active=True)
        except RuntimeError as error:  # such as a layer that asks the device for a number, as some routers do
            raise InternalError(f"decode_graphs: steps of {self._family.name!r} can not be recorded") from error
        self._pool = graph.pool()
        return _Captured(columns, places, graph, logits_RV)
