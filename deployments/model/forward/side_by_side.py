"""Keys of decode rows copied side by side, so that one call computes them all: on a CPU a call for each row costs more
than what it computes.

The copies are kept from step to step: while the rows are the same, each grows by one key. Where a row comes or goes all
are copied anew.

Shape legend: K key/value heads, T places of the store, R decode rows, G query heads of a key/value head, L keys of the
longest row, W >= L, D head dimension, M = R * L.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from deployments.model.forward.batch import Batch, Piece
from deployments.model.kv_cache.pages import PageTable

_ROOM = 64
"""Keys by which rows may grow before they are copied anew."""


@dataclass(frozen=True, slots=True)
class RowsPlan:
    """What a batch's decode rows look at."""

    number: int
    follows: int
    """Number of the plan whose rows are the same and one key shorter; -1: of none."""
    tables: list[PageTable | None]
    lengths: list[int]
    """Keys of each row but for the newest."""
    newest_R: torch.Tensor
    """Places of the newest keys in the store."""
    lengths_R: torch.Tensor
    mask_R11L: torch.Tensor


@dataclass(slots=True)
class _Copies:
    """Of one store."""

    number: int
    """The plan that they are up to date with."""
    keys_RKWD: torch.Tensor
    values_RKWD: torch.Tensor
    firsts_KR: torch.Tensor
    """Where each row's and head's first key is, in `keys_RKWD` without its first three axes apart."""


class SideBySide:
    """Belongs to one model's attention."""

    def __init__(self) -> None:
        self._copies: dict[int, _Copies] = {}
        """By the identity of a store's keys."""
        self._last: RowsPlan | None = None

    def attend(
        self, query_RKGD: torch.Tensor, keys_KTD: torch.Tensor, values_KTD: torch.Tensor, batch: Batch, scale: float
    ) -> torch.Tensor:
        """[R, K, G, D]."""
        plan = batch.rows_plan
        if plan is None:
            plan = batch.rows_plan = self._last = self._plan(batch.pieces[: batch.num_rows], query_RKGD.dtype)
        copies = self._up_to_date(plan, batch, keys_KTD, values_KTD)
        width = plan.mask_R11L.shape[-1]
        keys, values = copies.keys_RKWD[:, :, :width], copies.values_RKWD[:, :, :width]
        return scaled_dot_product_attention(query_RKGD, keys, values, attn_mask=plan.mask_R11L, scale=scale)

    def _plan(self, pieces: list[Piece], dtype: torch.dtype) -> RowsPlan:
        last = self._last
        tables, lengths = [piece.table for piece in pieces], [piece.start for piece in pieces]
        follows = -1
        if last is not None and lengths == [length + 1 for length in last.lengths]:
            same = all(mine is theirs is not None for mine, theirs in zip(tables, last.tables, strict=True))
            follows = last.number if same else -1
        lengths_R = torch.tensor(lengths)
        padding_RL = torch.arange(max(lengths) + 1) > lengths_R[:, None]
        mask_RL = torch.zeros(padding_RL.shape, dtype=dtype).masked_fill_(padding_RL, torch.finfo(dtype).min)
        return RowsPlan(
            0 if last is None else last.number + 1,
            follows,
            tables,
            lengths,
            torch.tensor([piece.keys[-1].stop - 1 for piece in pieces]),
            lengths_R,
            mask_RL[:, None, None],
        )

    def _up_to_date(self, plan: RowsPlan, batch: Batch, keys_KTD: torch.Tensor, values_KTD: torch.Tensor) -> _Copies:
        copies = self._copies.get(id(keys_KTD))
        if copies is not None and copies.number == plan.number:  # layers may share a store
            return copies
        if copies is None or copies.number != plan.follows or copies.keys_RKWD.shape[2] < plan.mask_R11L.shape[-1]:
            places_M = _places(batch.pieces[: batch.num_rows])
            rows, heads, room = len(plan.tables), keys_KTD.shape[0], plan.mask_R11L.shape[-1] + _ROOM
            keys, values = (_copied(store, places_M, rows, room) for store in (keys_KTD, values_KTD))
            firsts_KR = (torch.arange(rows) * heads + torch.arange(heads)[:, None]) * room
            self._copies[id(keys_KTD)] = copies = _Copies(plan.number, keys, values, firsts_KR)
            return copies
        where = (copies.firsts_KR + plan.lengths_R).flatten()
        for copy_RKWD, store_KTD in ((copies.keys_RKWD, keys_KTD), (copies.values_RKWD, values_KTD)):
            new_KRD = store_KTD.index_select(1, plan.newest_R)
            copy_RKWD.flatten(0, 2).index_copy_(0, where, new_KRD.flatten(0, 1))
        copies.number = plan.number
        return copies


def _copied(store_KTD: torch.Tensor, places_M: torch.Tensor, rows: int, room: int) -> torch.Tensor:
    heads, _, dim = store_KTD.shape
    copy_RKWD = store_KTD.new_zeros((rows, heads, room, dim))
    found_KRLD = store_KTD.index_select(1, places_M).view(heads, rows, -1, dim)
    copy_RKWD[:, :, : found_KRLD.shape[2]] = found_KRLD.transpose(0, 1)
    return copy_RKWD


def _places(pieces: list[Piece]) -> torch.Tensor:
    """int64 [M]: of each row's keys, padded to the longest by its own first: others' may be no numbers, which no mask
    makes harmless."""
    longest = max(piece.start for piece in pieces) + 1
    rows = []
    for piece in pieces:
        mine = [torch.arange(part.start, part.stop) for part in piece.keys]
        rows += [*mine, mine[0][:1].expand(longest - piece.start - 1)]
    return torch.cat(rows)
