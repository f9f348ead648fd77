"""What the ranks tell each other: small frozen objects, a few KB at most. Tensors on devices go by collectives.

They travel pickled, over a connection that both ends have authenticated themselves on before anything is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deployments.model.forward.batch import Chunk, Row
from deployments.model.forward.media_rows import PlacedRows
from deployments.model.kv_cache.pages import PageTable
from deployments.model.multimodal.request_media import EncodedRows
from deployments.types import MediaKind

_Table = tuple[int, int, list[tuple[int, int]]]
"""Size of a page, row in recurrent layers, stretches of pages. Tuples of numbers take a tenth of an object's time."""


@dataclass(frozen=True, slots=True)
class Join:
    """To each rank, first: who it is, and where the ranks find each other."""

    rank: int
    size: int
    host: str
    port: int
    timeout_s: float
    """Of one collective."""


@dataclass(frozen=True, slots=True)
class PartLoaded:
    """From a rank: its part of the model is there."""


@dataclass(frozen=True, slots=True)
class Begin:
    """To each rank: all parts are there."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From a rank, last: why it ends."""

    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """To each rank, last."""


@dataclass(frozen=True, slots=True)
class RowsToCome:
    """Encoder outputs that follow by collectives: of one modality, for places of the row."""

    kind: MediaKind
    places: Any
    """int64, numpy."""
    count: int
    width: int
    dtype: torch.dtype
    deepstack: int
    """Further tensors of the same shape."""
    as_list: bool
    output_type: type[Any]

    @classmethod
    def of(cls, found: PlacedRows) -> "RowsToCome":
        rows = found.rows
        count, width = rows.rows_ND.shape
        deepstack = len(rows.deepstack_ND)
        places = found.places_N.numpy()
        return cls(found.kind, places, count, width, rows.rows_ND.dtype, deepstack, rows.as_list, rows.output_type)

    def empty(self, device: torch.device) -> PlacedRows:
        """With room for what follows."""
        tensors = [
            torch.empty((self.count, self.width), dtype=self.dtype, device=device) for _ in range(1 + self.deepstack)
        ]
        rows = EncodedRows(tensors[0], tuple(tensors[1:]), self.as_list, self.output_type)
        return PlacedRows(self.kind, torch.from_numpy(self.places), rows)


@dataclass(frozen=True, slots=True)
class Pass:
    """Compute a pass."""

    rows: list[tuple[int, int, tuple[float, ...], _Table]]
    chunks: list[tuple[Any, int, Any, _Table, Any]]
    found: list[RowsToCome]

    @classmethod
    def of(cls, rows: Sequence[Row], chunks: Sequence[Chunk], found: Sequence[PlacedRows]) -> "Pass":
        return cls(
            [(row.token_id, row.length, row.position_offsets, _packed(row.table)) for row in rows],
            [(_array(c.ids_Q), c.start, _array(c.positions_AQ), _packed(c.table), _array(c.blocks_L)) for c in chunks],
            [RowsToCome.of(one) for one in found],
        )

    def inputs(self) -> tuple[list[Row], list[Chunk]]:
        """As the runner takes them."""
        return (
            [Row(token_id, length, offsets, _table(table)) for token_id, length, offsets, table in self.rows],
            [
                Chunk(torch.from_numpy(ids), start, _tensor(positions), _table(table), _tensor(blocks))
                for ids, start, positions, table, blocks in self.chunks
            ],
        )


@dataclass(frozen=True, slots=True)
class Copy:
    """`Storage.copy`."""

    source: int
    target: int
    count: int


@dataclass(frozen=True, slots=True)
class CopyState:
    """`Storage.copy_state`."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class TakeOut:
    """`Storage.take_out`; each rank holds what is its own, under a number."""

    number: int
    pages: list[int]
    states: list[int]


@dataclass(frozen=True, slots=True)
class PutBack:
    """`Storage.put_back` of what has the number."""

    number: int
    pages: list[int]
    states: list[int]


@dataclass(frozen=True, slots=True)
class Forget:
    """`Storage.forget`, likewise."""

    number: int


Work = Pass | Copy | CopyState | TakeOut | PutBack | Forget


def _packed(table: PageTable) -> _Table:
    return table.page_size, table.state, table.stretches


def _table(packed: _Table) -> PageTable:
    page_size, state, stretches = packed
    table = PageTable(page_size, state=state)
    for first, count in stretches:
        table.extend(list(range(first, first + count)))
    return table


def _array(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else tensor.numpy()


def _tensor(array: Any) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array)
