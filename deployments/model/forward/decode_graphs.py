"""Steps that only decode, recorded as CUDA graphs: a card then does not wait for Python to launch its kernels.

Recorded are a few numbers of rows and widths of page tables; a step is rounded up to the next of each, with rows that
idle: they have no keys, and what they write goes to nobody's page. Inputs lie at fixed addresses and come in one copy.

Shape legend: R rows, A rotary axes, P pages of a table, V vocabulary, F = 3 + A values of a row.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from deployments.model.forward.batch import Batch, Row
from deployments.model.kv_cache.cache import KVCache

_ROW_COUNTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_WIDTH_STEP = 4
"""Widths of tables grow by this factor: reading through a wider one costs little."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Recorded:
    """A step of one shape."""

    host_FR: torch.Tensor
    """int64, pinned: token id, place, length, rotary positions by axis (of fractions: the bits of float64)."""
    host_RP: torch.Tensor
    device_FR: torch.Tensor
    device_RP: torch.Tensor
    tables: list[tuple[list[int], int]] = field(default_factory=list)
    """Whose pages `host_RP` holds, and how many."""
    graph: Any = None
    logits_RV: torch.Tensor | None = None


class DecodeGraphs:
    """Belongs to the engine's thread."""

    def __init__(
        self, forward: Callable[[Batch], torch.Tensor], cache: KVCache, *, num_axes: int, max_rows: int, device: Any
    ) -> None:
        """`forward`: logits [R, V] of a batch of decode rows."""
        self._forward = forward
        self._cache = cache
        self._num_axes = num_axes
        self._device = device
        self._row_counts = sorted({count for count in _ROW_COUNTS if count < max_rows} | {max_rows})
        widest = cache.pages_for(cache.max_length)
        widths = {min(_WIDTH_STEP**exponent, widest) for exponent in range(1, 10)}
        self._widths = sorted(widths)
        self._recorded: dict[tuple[int, int, bool], _Recorded] = {}
        self._pool: Any = None

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
        recorded.graph.replay()
        assert recorded.logits_RV is not None
        return recorded.logits_RV[: len(rows)]

    def _check(self, rows: int, width: int) -> None:
        """Raise `RuntimeError` where a step waits for the device, before anything is recorded."""
        step = self._buffers(rows, width)
        batch = self._batch(step, fractions=False)
        self._forward(batch)  # kernels are compiled and libraries set up in a first call, which may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            self._forward(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def _record(self, rows: int, width: int, *, fractions: bool) -> _Recorded:
        step = self._buffers(rows, width)
        batch = self._batch(step, fractions=fractions)
        self._forward(batch)
        step.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(step.graph, pool=self._pool):
            step.logits_RV = self._forward(self._batch(step, fractions=fractions)).float()
        self._pool = step.graph.pool()
        self._recorded[rows, width, fractions] = step
        return step

    def _buffers(self, rows: int, width: int) -> _Recorded:
        host_FR = torch.zeros((3 + self._num_axes, rows), dtype=torch.int64).pin_memory()
        host_FR[1] = self._cache.nobodys_place
        host_RP = torch.zeros((rows, width), dtype=torch.int32).pin_memory()
        return _Recorded(host_FR, host_RP, host_FR.to(self._device), host_RP.to(self._device), [([], 0)] * rows)

    def _batch(self, step: _Recorded, *, fractions: bool) -> Batch:
        ids_R, places_R, lengths_R = step.device_FR[:3]
        positions_AR = step.device_FR[3:]
        if fractions:
            positions_AR = positions_AR.view(torch.float64).float()
        return Batch(
            ids_R,
            positions_AR,
            places_R,
            torch.empty(0, dtype=torch.int64, device=self._device),
            len(ids_R),
            [],
            torch.empty(0, dtype=torch.int64, device=self._device),
            step.device_RP,
            lengths_R.int(),
        )

    def _fill(self, step: _Recorded, rows: Sequence[Row], *, fractions: bool) -> None:
        """Bring a step's inputs to the device."""
        columns, count = step.host_FR.numpy(), len(rows)
        columns[0, :count] = [row.token_id for row in rows]
        columns[1, :count] = [row.table.place(row.length) for row in rows]
        columns[2, :count] = [row.length + 1 for row in rows]
        positions = columns[3:].view("float64") if fractions else columns[3:]
        for axis in range(self._num_axes):
            positions[axis, :count] = [row.length + row.position_offsets[axis] for row in rows]
        columns[0, count:], columns[1, count:], columns[2:, count:] = 0, self._cache.nobodys_place, 0
        step.device_FR.copy_(step.host_FR, non_blocking=True)
        if self._fill_tables(step, rows):
            step.device_RP.copy_(step.host_RP, non_blocking=True)

    @staticmethod
    def _fill_tables(step: _Recorded, rows: Sequence[Row]) -> bool:
        """Whether any row's pages are others than before."""
        changed, tables = False, step.host_RP.numpy()
        for number, row in enumerate(rows):
            pages = row.table.pages
            known, length = step.tables[number]
            if known is not pages or length != len(pages):
                tables[number, : len(pages)] = pages
                step.tables[number] = pages, len(pages)
                changed = True
        return changed
