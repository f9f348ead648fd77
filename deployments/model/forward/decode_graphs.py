"""Steps that only decode, recorded as CUDA graphs: a card then does not wait for Python to launch its kernels.

Recorded are a few numbers of rows and widths of page tables; a step is rounded up to the next of each, with rows that
idle: they have no keys, and what they write goes to nobody's page. Inputs lie at fixed addresses and come in one copy.

Shape legend: R rows, A rotary axes, P pages of a table, V vocabulary, F = 4 + A values of a row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from deployments.model.forward.batch import Batch, Row
from deployments.model.forward.latest_tokens import LatestTokens
from deployments.model.forward.recorder import Recorder
from deployments.model.forward.staged import Staged
from deployments.model.kv_cache.cache import KVCache

_ROW_COUNTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_WIDTH_STEP = 4
"""Widths of tables grow by this factor: reading through a wider one costs little."""


@dataclass(slots=True)
class _Recorded:
    """A step of one shape."""

    inputs_FR: Staged
    """int64: token id, its source, place, length, rotary positions by axis (of fractions: the bits of float64)."""
    tables_RP: Staged
    tables: list[tuple[list[int], int]] = field(default_factory=list)
    """Whose pages `tables_RP` holds, and how many."""
    replay: Callable[[], object] | None = None
    logits_RV: torch.Tensor | None = None


class DecodeGraphs:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        forward: Callable[[Batch], torch.Tensor],
        cache: KVCache,
        latest: LatestTokens,
        recorder: Recorder,
        *,
        num_axes: int,
        max_rows: int,
        device: torch.device,
    ) -> None:
        """`forward`: logits [R, V] of a batch of decode rows."""
        self._forward = forward
        self._cache = cache
        self._latest = latest
        self._recorder = recorder
        self._num_axes = num_axes
        self._device = device
        self._row_counts = sorted({count for count in _ROW_COUNTS if count < max_rows} | {max_rows})
        widest = cache.pages_for(cache.max_length)
        widths = {min(_WIDTH_STEP**exponent, widest) for exponent in range(1, 10)}
        self._widths = sorted(widths)
        self._recorded: dict[tuple[int, int, bool], _Recorded] = {}

    @property
    def shapes(self) -> Iterator[tuple[int, int]]:
        """Rows and widths, the widest first: later ones find their memory among what earlier ones used."""
        return ((rows, width) for rows in reversed(self._row_counts) for width in reversed(self._widths))

    def record(self) -> None:
        """Record every shape. Raises what the forward raises where its work can not be recorded."""
        shapes = list(self.shapes)
        self._check(*shapes[-1])
        for rows, width in tqdm(shapes, desc="CUDA graphs"):
            self._record(rows, width, fractions=False)

    def run(self, rows: Sequence[Row]) -> torch.Tensor | None:
        """Logits [R, V] float32, overwritten by the next call; None for more rows or wider tables than recorded."""
        count = next((count for count in self._row_counts if count >= len(rows)), None)
        longest = max(len(row.table.pages) for row in rows)
        width = next((width for width in self._widths if width >= longest), None)
        if count is None or width is None:
            return None
        fractions = any(isinstance(offset, float) for row in rows for offset in row.position_offsets)
        recorded = self._recorded.get((count, width, fractions)) or self._record(count, width, fractions=fractions)
        self._fill(recorded, rows, fractions=fractions)
        assert recorded.replay is not None
        assert recorded.logits_RV is not None
        recorded.replay()
        return recorded.logits_RV[: len(rows)]

    def _check(self, rows: int, width: int) -> None:
        """Raise `RuntimeError` where a step waits for the device, before anything is recorded."""
        step = self._buffers(rows, width)
        batch = self._batch(step, fractions=False)
        self._forward(batch)  # kernels are compiled and libraries set up in a first call, which may wait
        with self._recorder.refusing_waits():
            self._forward(batch)

    def _record(self, rows: int, width: int, *, fractions: bool) -> _Recorded:
        step = self._buffers(rows, width)
        step.replay, step.logits_RV = self._recorder.record(
            lambda: self._forward(self._batch(step, fractions=fractions)).float()
        )
        self._recorded[rows, width, fractions] = step
        return step

    def _buffers(self, rows: int, width: int) -> _Recorded:
        idle_FR = torch.zeros((4 + self._num_axes, rows), dtype=torch.int64)
        idle_FR[1], idle_FR[2] = -1, self._cache.nobodys_place
        none_RP = torch.zeros((rows, width), dtype=torch.int32)
        return _Recorded(Staged(idle_FR, self._device), Staged(none_RP, self._device), [([], 0)] * rows)

    def _batch(self, step: _Recorded, *, fractions: bool) -> Batch:
        ids_R, sources_R, places_R, lengths_R = step.inputs_FR.there[:4]
        positions_AR = step.inputs_FR.there[4:]
        if fractions:
            positions_AR = positions_AR.view(torch.float64).float()
        return Batch(
            self._latest.among(ids_R, sources_R),
            positions_AR,
            places_R,
            torch.empty(0, dtype=torch.int64, device=self._device),
            len(ids_R),
            [],
            torch.empty(0, dtype=torch.int64, device=self._device),
            step.tables_RP.there,
            lengths_R.int(),
        )

    def _fill(self, step: _Recorded, rows: Sequence[Row], *, fractions: bool) -> None:
        """Bring a step's inputs to the device."""
        columns, count = step.inputs_FR.to_fill().numpy(), len(rows)
        columns[0, :count] = [row.token_id for row in rows]
        columns[1, :count] = [row.source for row in rows]
        columns[2, :count] = [row.table.place(row.length) for row in rows]
        columns[3, :count] = [row.length + 1 for row in rows]
        positions = columns[4:].view("float64") if fractions else columns[4:]
        for axis in range(self._num_axes):
            positions[axis, :count] = [row.length + row.position_offsets[axis] for row in rows]
        columns[0, count:], columns[1, count:], columns[2, count:], columns[3:, count:] = (
            0,
            -1,
            self._cache.nobodys_place,
            0,
        )
        step.inputs_FR.send()
        self._fill_tables(step, rows)

    @staticmethod
    def _fill_tables(step: _Recorded, rows: Sequence[Row]) -> None:
        """Where any row's pages are others than before."""
        pages = [row.table.pages for row in rows]
        known = zip(pages, step.tables, strict=False)
        changed = [i for i, (mine, (old, length)) in enumerate(known) if mine is not old or len(mine) != length]
        if not changed:
            return
        tables = step.tables_RP.to_fill().numpy()
        for number in changed:
            mine = pages[number]
            tables[number, : len(mine)] = mine
            step.tables[number] = mine, len(mine)
        step.tables_RP.send()
