"""Attention of several pieces of unequal length that follow each other in one row, without a mask.

On a card one call of torch's own FlashAttention, never the one that reads pages with split keys: that one gives wrong
rows. Elsewhere, and for what FlashAttention does not compute (float64, odd head dimensions), a call for the pieces
of one shape.

Causal attention is aligned at the end: the last query of a piece looks at all of its keys, as of a prompt whose
beginning is in the cache.

Shape legend: N queries of all pieces, M keys of all pieces, H query heads, K key/value heads, D head dimension, B
pieces of one shape, Q queries and L keys of a piece.
"""

from itertools import groupby, pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

_FLASH_DTYPES = (torch.float16, torch.bfloat16)
_FLASH_MAX_DIM = 256


def varlen(
    query_NHD: torch.Tensor,
    keys_MKD: torch.Tensor,
    values_MKD: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    causal: bool,
    window: int | None = None,
) -> torch.Tensor:
    """[N, H, D]. Piece i: queries `cu_q[i]` to `cu_q[i + 1]`, keys likewise by `cu_k`; int32 on the device, from 0.

    `max_q`, `max_k`: of the longest piece, on the host. `window`, of causal attention alone: a query looks at the last
    `window` keys up to its own.
    """
    assert causal or window is None, "a window of attention both ways is not defined"
    if flashes(query_NHD):
        return _flash(query_NHD, keys_MKD, values_MKD, cu_q, cu_k, max_q, max_k, scale, causal, window)
    # The only wait for the device here, on paths where it does not matter.
    outs_NHD, q, k = [], 0, 0
    lengths = zip(_lengths(cu_q), _lengths(cu_k), strict=True)
    for (num_q, num_k), group in groupby(lengths):  # pieces of one shape are a batch
        count = len(list(group))
        outs_NHD.append(
            _pieces(
                torch.unflatten(query_NHD[q : q + count * num_q], 0, (count, num_q)),
                torch.unflatten(keys_MKD[k : k + count * num_k], 0, (count, num_k)),
                torch.unflatten(values_MKD[k : k + count * num_k], 0, (count, num_k)),
                scale,
                causal=causal,
                window=window,
            )
        )
        q, k = q + count * num_q, k + count * num_k
    return torch.cat(outs_NHD) if outs_NHD else torch.empty_like(query_NHD)


def flashes(query_NHD: torch.Tensor) -> bool:
    """Whether FlashAttention computes such queries."""
    dim = query_NHD.shape[-1]
    return query_NHD.is_cuda and query_NHD.dtype in _FLASH_DTYPES and dim % 8 == 0 and dim <= _FLASH_MAX_DIM


def _flash(
    query_NHD: torch.Tensor,
    keys_MKD: torch.Tensor,
    values_MKD: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    max_q: int,
    max_k: int,
    scale: float,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    # The operator below `torch.nn.attention.varlen`: that has other parameters in every version, this one the same.
    bounds: dict[str, Any] = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    found: torch.Tensor = torch.ops.aten._flash_attention_forward(
        query_NHD, keys_MKD, values_MKD, cu_q, cu_k, max_q, max_k, 0.0, causal, False, scale=scale, **bounds
    )[0]
    return found


def _lengths(cu: torch.Tensor) -> list[int]:
    return [stop - start for start, stop in pairwise(cu.tolist())]


def _pieces(
    query_BQHD: torch.Tensor,
    keys_BLKD: torch.Tensor,
    values_BLKD: torch.Tensor,
    scale: float,
    *,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    """[B * Q, H, D] of B pieces with L >= Q keys each."""
    num_q, num_k = query_BQHD.shape[1], keys_BLKD.shape[1]
    if num_q == 1 and window is not None:  # no mask then: a view of the last keys
        keys_BLKD, values_BLKD = keys_BLKD[:, -window:], values_BLKD[:, -window:]
        num_k, window = min(num_k, window), None
    mask_QL: torch.Tensor | None = None
    plain = num_q == num_k and (window is None or window >= num_k)
    if causal and num_q > 1 and not plain:
        mask_QL = torch.ones((num_q, num_k), dtype=torch.bool, device=query_BQHD.device).tril(num_k - num_q)
        if window is not None:
            mask_QL = mask_QL.triu(num_k - num_q - window + 1)
    out_BHQD = scaled_dot_product_attention(
        query_BQHD.transpose(1, 2),
        keys_BLKD.transpose(1, 2),
        values_BLKD.transpose(1, 2),
        attn_mask=mask_QL,
        is_causal=causal and num_q > 1 and plain,
        scale=scale,
        enable_gqa=query_BQHD.shape[2] != keys_BLKD.shape[2],
    )
    return out_BHQD.transpose(1, 2).flatten(0, 1)
