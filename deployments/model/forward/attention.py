"""Attention of a ragged batch over the store: the only layer of a model that knows of sequences.

transformers looks attention functions up by a name in the configuration; for the time of a pass ours is there, and
since no mask function has that name, no masks are made. Two backends: on a CPU piece by piece by
`scaled_dot_product_attention`, on views where a sequence's pages are consecutive; on a card the decode rows by a kernel
that reads through the page tables, the chunks by FlashAttention for pieces of unequal length.

Shape legend: H heads, K key/value heads, N tokens of the batch, R decode rows, Q tokens of a piece, L keys of its
sequence, D head dimension, T places of the store, M keys of all chunks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from deployments.errors import InternalError
from deployments.model.forward.batch import Batch, Piece
from deployments.model.forward.side_by_side import SideBySide

NAME = "ragged"
_WORTH_COPYING = 500_000
"""Numbers of keys: below that a call for each row takes longer than to copy them."""


class Look(NamedTuple):
    """How a layer looks at its keys."""

    scale: float
    window: int | None
    """It sees the last so many keys, its own included; None for all."""
    both_ways: bool
    """Tokens of one picture see each other."""


class Backend(Protocol):
    """Computes a batch's attention in one layer."""

    def attend(
        self, query_HND: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: Batch, look: Look
    ) -> torch.Tensor:
        """[N, H, D]; `keys` and `values` are the layer's whole store."""
        ...


class PiecewiseAttention:
    """For stores [K, T, D], heads first."""

    def __init__(self, worth_copying: int = _WORTH_COPYING) -> None:
        self._worth_copying = worth_copying
        self._side_by_side = SideBySide()

    def attend(
        self, query_HND: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: Batch, look: Look
    ) -> torch.Tensor:
        outs, rows = [], batch.num_rows
        query_HRD, answers, prompts = query_HND[:, :rows], batch.pieces[:rows], batch.pieces[rows:]
        if rows > 1 and self._is_small(batch, keys) and look.window is None:
            query_RKGD = query_HRD.transpose(0, 1).reshape(rows, keys.shape[0], -1, query_HRD.shape[-1])
            out_RKGD = self._side_by_side.attend(query_RKGD, keys, values, batch, look.scale)
            outs.append(out_RKGD.reshape(rows, query_HRD.shape[0], -1))
        elif rows:
            outs += self._tokens(query_HRD, keys, values, answers, look)
        for piece in prompts:
            query = query_HND[:, piece.first : piece.stop]
            if piece.stop - piece.first == 1:
                outs += self._tokens(query, keys, values, [piece], look)
            else:
                found = piece_attention(query, _gathered(keys, piece.keys), _gathered(values, piece.keys), piece, look)
                outs.append(found)
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _is_small(self, batch: Batch, keys_KTD: torch.Tensor) -> bool:
        """Whether the rows' keys may be copied."""
        longest = max(piece.start for piece in batch.pieces[: batch.num_rows]) + 1
        return batch.num_rows * longest * keys_KTD.shape[0] * keys_KTD.shape[2] <= self._worth_copying

    @staticmethod
    def _tokens(
        query_HRD: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, pieces: list[Piece], look: Look
    ) -> list[torch.Tensor]:
        """[1, H, D] of each lone token: heads that share keys are as good as several queries, and none needs a mask.

        What is alike for all is done once: beside few keys each call here costs more than what it computes.
        """
        heads, rows, head_dim = query_HRD.shape
        queries = query_HRD.transpose(0, 1).reshape(rows, 1, keys.shape[0], -1, head_dim).unbind()
        keys_1KTD, values_1KTD = keys[None], values[None]
        outs = []
        for query_1KGD, piece in zip(queries, pieces, strict=True):
            where = piece.keys if look.window is None else _last(piece.keys, look.window)
            mine = _gathered(keys_1KTD, where), _gathered(values_1KTD, where)
            outs.append(scaled_dot_product_attention(query_1KGD, *mine, scale=look.scale).reshape(1, heads, head_dim))
        return outs


class KernelAttention:
    """For stores [T, K, D], tokens first."""

    def __init__(self, page_size: int) -> None:
        # Not above: the kernels need Triton, which not every machine without a card has.
        from deployments.model.forward.paged_decode import paged_decode
        from deployments.model.forward.varlen import varlen

        self._page_size = page_size
        self._paged_decode = paged_decode
        self._varlen = varlen

    def attend(
        self, query_HND: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: Batch, look: Look
    ) -> torch.Tensor:
        query_NHD = query_HND.transpose(0, 1)
        outs = []
        if batch.num_rows:
            assert batch.tables_RP is not None
            assert batch.lengths_R is not None
            outs.append(
                self._paged_decode(
                    query_NHD[: batch.num_rows],
                    keys,
                    values,
                    batch.tables_RP,
                    batch.lengths_R,
                    page_size=self._page_size,
                    scale=look.scale,
                    window=look.window,
                )
            )
        packed = batch.packed
        if packed is not None:
            query_NHD = query_NHD[batch.num_rows :]
            keys_MKD, values_MKD = keys[packed.places_M], values[packed.places_M]
            if look.both_ways and any(piece.blocks_L is not None for piece in batch.pieces):
                outs.append(_by_pieces(query_NHD, keys_MKD, values_MKD, batch, look))
            else:
                edges = packed.cu_q, packed.cu_k, packed.max_q, packed.max_k
                outs.append(
                    self._varlen(
                        query_NHD, keys_MKD, values_MKD, *edges, scale=look.scale, causal=True, window=look.window
                    )
                )
        return outs[0] if len(outs) == 1 else torch.cat(outs)


def piece_attention(
    query_HQD: torch.Tensor, keys_KLD: torch.Tensor, values_KLD: torch.Tensor, piece: Piece, look: Look
) -> torch.Tensor:
    """[Q, H, D] of one piece."""
    window = None if look.window is None or look.window >= keys_KLD.shape[1] else look.window
    both_ways = look.both_ways and piece.blocks_L is not None
    plain = piece.start == 0 and window is None and not both_ways
    mask = None if plain else _mask(piece, window, both_ways, query_HQD)
    out_1HQD = scaled_dot_product_attention(
        query_HQD[None],
        keys_KLD[None],
        values_KLD[None],
        attn_mask=mask,
        is_causal=plain,
        scale=look.scale,
        enable_gqa=query_HQD.shape[0] != keys_KLD.shape[0],
    )
    return out_1HQD[0].transpose(0, 1)


def _by_pieces(
    query_NHD: torch.Tensor, keys_MKD: torch.Tensor, values_MKD: torch.Tensor, batch: Batch, look: Look
) -> torch.Tensor:
    """[N, H, D] of chunks whose pictures are seen both ways."""
    outs, first_key = [], 0
    for piece in batch.pieces:
        stop_key = first_key + piece.start + piece.stop - piece.first
        query_HQD = query_NHD[piece.first - batch.num_rows : piece.stop - batch.num_rows].transpose(0, 1)
        keys_KLD, values_KLD = (x[first_key:stop_key].transpose(0, 1) for x in (keys_MKD, values_MKD))
        outs.append(piece_attention(query_HQD, keys_KLD, values_KLD, piece, look))
        first_key = stop_key
    return torch.cat(outs)


def _mask(piece: Piece, window: int | None, both_ways: bool, query_HQD: torch.Tensor) -> torch.Tensor:
    """[Q, L], to be added; made once for all layers of a kind."""
    key = window, both_ways
    if key not in piece.masks:
        device = query_HQD.device
        num_new = piece.stop - piece.first
        places_Q1 = torch.arange(piece.start, piece.start + num_new, device=device)[:, None]
        places_1L = torch.arange(piece.start + num_new, device=device)[None]
        seen_QL = places_1L <= places_Q1
        if window is not None:
            seen_QL &= places_1L > places_Q1 - window
        if both_ways:
            assert piece.blocks_L is not None
            blocks_L = piece.blocks_L.to(device)
            mine_Q1 = blocks_L[piece.start :][:, None]
            seen_QL |= (mine_Q1 == blocks_L[None]) & (mine_Q1 >= 0)
        mask_QL = torch.zeros(seen_QL.shape, dtype=query_HQD.dtype, device=device)
        piece.masks[key] = mask_QL.masked_fill_(~seen_QL, torch.finfo(query_HQD.dtype).min)
    return piece.masks[key]


def _gathered(store: torch.Tensor, where: list[slice]) -> torch.Tensor:
    """[..., L, D] of a store [..., T, D]: a view where it is one slice."""
    if len(where) == 1:
        return store[..., where[0], :]
    return torch.cat([store[..., part, :] for part in where], dim=-2)


def _last(where: list[slice], count: int) -> list[slice]:
    """The last so many places."""
    found: list[slice] = []
    for part in reversed(where):
        if count <= 0:
            break
        found.insert(0, slice(max(part.start, part.stop - count), part.stop))
        count -= part.stop - part.start
    return found


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    batch: Batch,
    backend: Backend,
    both_ways: str,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: `query` [1, H, N, D], `key` and `value` a layer's store.

    Raises `InternalError` for what no backend computes; the check at the start finds it.
    """
    if attention_mask is not None or softcap is not None:
        raise InternalError("models whose attention has a mask or a soft cap of its own are not served")
    look = Look(
        scaling if scaling is not None else query.shape[-1] ** -0.5,
        sliding_window,
        both_ways == "all" or (both_ways == "sliding" and sliding_window is not None),
    )
    return backend.attend(query[0], key, value, batch, look)[None], None


AttentionInterface.register(NAME, _attend)


@contextmanager
def ragged_attention(text_config: Any) -> Iterator[None]:
    """While open, a language model's layers attend as above, given the arguments of `_attend`."""
    before = text_config._attn_implementation
    text_config._attn_implementation = NAME
    try:
        yield
    finally:
        text_config._attn_implementation = before
