"""One ragged pass: a row of N tokens of several sequences, decode rows first, then chunks of prompts.

Shape legend: N tokens, R decode rows, C chunks, Q tokens of a chunk, L keys of a sequence, M keys of all chunks, A
rotary axes, P pages of the longest table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from deployments.model.forward.latest_tokens import LatestTokens
from deployments.model.kv_cache.cache import KVCache
from deployments.model.kv_cache.pages import PageTable
from deployments.model.multimodal.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Row:
    """An answer's newest token, whose key is not in the store yet."""

    token_id: int
    length: int
    """Tokens of its sequence that are in the store: its own place there."""
    position_offsets: tuple[float, ...]
    """What to add to `length` to get its rotary position, by axis."""
    table: PageTable
    source: int = -1
    """Its place among the tokens chosen last, while the host does not know which one it is; -1: it is `token_id`."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next tokens of one prompt, all on the host."""

    ids_Q: torch.Tensor
    start: int
    """Tokens before it, which are in the store."""
    positions_AQ: torch.Tensor | None
    """Rotary positions; None where they are those in the sequence."""
    table: PageTable
    blocks_L: torch.Tensor | None = None
    """Which picture each token up to the chunk's end belongs to, -1 for none, where those of one see each other both
    ways."""


@dataclass(slots=True)
class Piece:
    """Consecutive tokens of one sequence in the row."""

    first: int
    stop: int
    start: int
    """Tokens before them in their sequence."""
    keys: list[slice]
    """Where the sequence's keys are, those of the piece included."""
    state_1: torch.Tensor
    """Its row in recurrent layers."""
    blocks_L: torch.Tensor | None = None
    table: PageTable | None = None
    """Of a row that decodes."""
    masks: dict[tuple[int | None, bool], torch.Tensor] = field(default_factory=dict)
    """By window and whether pictures are seen both ways; filled by the attention."""


@dataclass(slots=True)
class PackedChunks:
    """What the kernels of a card know of the chunks; on the device."""

    cu_q: torch.Tensor
    """int32 [C + 1]: where each chunk's tokens begin, the first at 0."""
    cu_k: torch.Tensor
    """int32 [C + 1]: likewise of its sequence's keys, one sequence after the other."""
    max_q: int
    max_k: int
    places_M: torch.Tensor
    """Where these keys are in the store."""


@dataclass(slots=True)
class Batch:
    """Inputs of a pass. Tensors are on the device; `pieces` is for those who work sequence by sequence."""

    ids_N: torch.Tensor
    positions_AN: torch.Tensor
    places_N: torch.Tensor
    """Where the new keys go."""
    kept: torch.Tensor
    """Tokens of the row whose logits are wanted: each row's, each chunk's last one."""
    num_rows: int
    pieces: list[Piece]
    """Of decode rows and chunks; rows of a batch for a card have none."""
    states_R: torch.Tensor
    tables_RP: torch.Tensor | None = None
    """int32: pages of each decode row's sequence; None on a CPU."""
    lengths_R: torch.Tensor | None = None
    """int32: keys of each, its own included; 0 where a row idles."""
    packed: PackedChunks | None = None
    rows_plan: Any = None
    """On a CPU: what the decode rows look at; filled by the attention."""

    @property
    def num_tokens(self) -> int:
        return len(self.ids_N)

    @property
    def chunks(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.first >= self.num_rows]


class BatchMaker:
    """From rows and chunks to the tensors of a pass, with one upload for each."""

    def __init__(
        self, cache: KVCache, uploads: Uploads, latest: LatestTokens, num_axes: int, device: torch.device
    ) -> None:
        self._cache = cache
        self._put = uploads.put
        self._latest = latest
        self._num_axes = num_axes
        self._device = device

    @cached_property
    def _for_kernels(self) -> bool:
        return self._device.type != "cpu"

    def make(self, rows: Sequence[Row], chunks: Sequence[Chunk]) -> Batch:
        num_rows = len(rows)
        ids = [torch.tensor([row.token_id for row in rows], dtype=torch.int64)]
        places = [torch.tensor([row.table.place(row.length) for row in rows], dtype=torch.int64)]
        offsets = range(self._num_axes)
        positions = [torch.tensor([[row.length + row.position_offsets[axis] for row in rows] for axis in offsets])]
        pieces, first = [], num_rows
        for chunk in chunks:
            stop = chunk.start + len(chunk.ids_Q)
            ids.append(chunk.ids_Q)
            places.append(torch.cat([torch.arange(s.start, s.stop) for s in chunk.table.slices(chunk.start, stop)]))
            positions.append(self._positions(chunk, stop))
            pieces.append(self._piece(first, chunk, stop))
            first += len(chunk.ids_Q)
        kept = torch.tensor([*range(num_rows), *(piece.stop - 1 for piece in pieces)])
        states_R = self._put(torch.tensor([row.table.state for row in rows], dtype=torch.int64))
        # No rows give an empty tensor of floats, which would make floats of everything.
        known = positions if num_rows else positions[1:]
        batch = Batch(
            self._put(torch.cat(ids)),
            self._put(torch.cat(known, dim=1)),
            self._put(torch.cat(places)),
            self._put(kept),
            num_rows,
            pieces,
            states_R,
        )
        sources = [row.source for row in rows]
        if any(source >= 0 for source in sources):
            batch.ids_N[:num_rows] = self._latest.among(batch.ids_N[:num_rows], self._put(torch.tensor(sources)))
        if self._for_kernels:
            self._add_tables(batch, rows)
        else:
            batch.pieces = [self._row_piece(number, row) for number, row in enumerate(rows)] + pieces
        return batch

    def _positions(self, chunk: Chunk, stop: int) -> torch.Tensor:
        if chunk.positions_AQ is not None:
            return chunk.positions_AQ
        return torch.arange(chunk.start, stop).expand(self._num_axes, -1)

    def _piece(self, first: int, chunk: Chunk, stop: int) -> Piece:
        state_1 = self._put(torch.tensor([chunk.table.state]))
        keys = chunk.table.slices(0, stop)
        return Piece(first, first + len(chunk.ids_Q), chunk.start, keys, state_1, chunk.blocks_L)

    @staticmethod
    def _row_piece(number: int, row: Row) -> Piece:
        return Piece(number, number + 1, row.length, row.table.slices(0, row.length + 1), _NO_STATE, None, row.table)

    def _add_tables(self, batch: Batch, rows: Sequence[Row]) -> None:
        pages = [row.table.pages for row in rows]
        width = max(map(len, pages), default=0)
        tables = [[*mine, *[0] * (width - len(mine))] for mine in pages]
        batch.tables_RP = self._put(torch.tensor(tables, dtype=torch.int32).reshape(len(rows), width))
        batch.lengths_R = self._put(torch.tensor([row.length + 1 for row in rows], dtype=torch.int32))
        if batch.pieces:
            sizes_q = [piece.stop - piece.first for piece in batch.pieces]
            sizes_k = [piece.start + size for piece, size in zip(batch.pieces, sizes_q, strict=True)]
            places = [torch.arange(s.start, s.stop) for piece in batch.pieces for s in piece.keys]
            batch.packed = PackedChunks(
                self._put(_edges(sizes_q)),
                self._put(_edges(sizes_k)),
                max(sizes_q),
                max(sizes_k),
                self._put(torch.cat(places)),
            )


_NO_STATE = torch.tensor([-1])
"""Rows that decode have theirs in `Batch.states_R`."""


def _edges(sizes: list[int]) -> torch.Tensor:
    return torch.tensor([0, *sizes]).cumsum(0).int()
