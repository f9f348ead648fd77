"""Attention of a decode step over pages: parts of a fixed number of keys, so that a row's sums are its own.

A first kernel attends to one part of one row for the query heads that share a key/value head; a second one merges the
row's parts, in tiles of a fixed number. Neither depends on what else is in the batch, nor on how wide its table is: a
row's bits are the same in any batch.

Shape legend: R rows, H query heads, K key/value heads, G query heads that share one, T tokens of the store, P pages of
a table, D head dimension.
"""

from typing import Any

import torch
import triton
import triton.language as tl

PART = 256
"""Keys of a part."""
_TILE = 16
"""Parts that are merged at once."""
_NO_WINDOW = 1 << 30
_LOG2_E = 1.4426950408889634


@triton.jit
def attend_parts(
    query, keys, values, tables, lengths, part_out, part_lse, scale, softcap, window,
    query_row, query_head, key_token, key_head, value_token, value_head, table_row, num_parts,
    PAGE: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr, CAPPED: tl.constexpr,
    G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """Keys `part * PART` and on of one row; rows of length 0 and parts before the window are left out. Scores are
    logarithms to base 2: times log2(e), which is part of `scale`, with CAPPED of `softcap`; `scale` is divided by the
    plain one then."""
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    low = tl.maximum(length - window, 0)
    start, stop = part * PART, tl.minimum(part * PART + PART, length)
    if (start < length) & (stop > low):
        g, d = tl.arange(0, GP), tl.arange(0, DP)
        mine = (g < G)[:, None] & (d < D)[None, :]
        heads = head * G + g
        q = tl.load(
            query + row.to(tl.int64) * query_row + heads[:, None] * query_head + d[None, :], mask=mine, other=0.0
        )
        most = tl.full([GP], float("-inf"), tl.float32)
        total = tl.zeros([GP], tl.float32)
        acc = tl.zeros([GP, DP], tl.float32)
        # Blocks wholly before the window would be all -inf, and their weights not numbers.
        first = tl.maximum(start, low // BLOCK * BLOCK)
        for place in range(first, stop, BLOCK):
            n = place + tl.arange(0, BLOCK)
            seen = (n < stop) & (n >= low)
            if PAGE % BLOCK == 0:  # the whole block lies in one page
                page = tl.load(tables + row * table_row + place // PAGE).to(tl.int64)
                token = page * PAGE + place % PAGE + tl.arange(0, BLOCK)
            else:
                pages = tl.load(tables + row * table_row + n // PAGE, mask=n < stop, other=0).to(tl.int64)
                token = pages * PAGE + n % PAGE
            k = tl.load(
                keys + token[None, :] * key_token + head * key_head + d[:, None],
                mask=seen[None, :] & (d < D)[:, None],
                other=0.0,
            )
            scores = tl.dot(q, k, input_precision="ieee") * scale
            if CAPPED:
                scores = softcap * (2.0 * tl.sigmoid(2.0 * scores) - 1.0)
            scores = tl.where(seen[None, :], scores, float("-inf"))
            new = tl.maximum(most, tl.max(scores, 1))
            weights = tl.exp2(scores - new[:, None])
            old = tl.exp2(most - new)
            v = tl.load(
                values + token[:, None] * value_token + head * value_head + d[None, :],
                mask=seen[:, None] & (d < D)[None, :],
                other=0.0,
            )
            acc = acc * old[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            total = total * old + tl.sum(weights, 1)
            most = new
        at = ((row.to(tl.int64) * tl.num_programs(1) + head) * num_parts + part) * G + g
        tl.store(part_out + at[:, None] * D + d[None, :], acc / total[:, None], mask=mine)
        tl.store(part_lse + at, most + tl.log2(total), mask=g < G)


@triton.jit
def merge_parts(
    part_out, part_lse, lengths, out, window, out_row, out_head, num_parts,
    PART: tl.constexpr, TILE: tl.constexpr, G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """One query head of one row, from its parts; zeros for a row of length 0."""
    row, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + row)
    low = tl.maximum(length - window, 0)
    d = tl.arange(0, DP)
    most, total = float("-inf"), 0.0
    acc = tl.zeros([DP], tl.float32)
    base = (row.to(tl.int64) * (tl.num_programs(1) // G) + head // G) * num_parts * G + head % G
    stop = tl.cdiv(length, PART)
    for first in range(low // PART, stop, TILE):
        part = first + tl.arange(0, TILE)
        there = part < stop
        lse = tl.load(part_lse + base + part * G, mask=there, other=float("-inf"))
        outs = tl.load(
            part_out + (base + part * G)[:, None] * D + d[None, :], mask=there[:, None] & (d < D)[None, :], other=0.0
        )
        new = tl.maximum(most, tl.max(lse, 0))
        weights = tl.exp2(lse - new)
        old = tl.exp2(most - new)
        acc = acc * old + tl.sum(outs * weights[:, None], 0)
        total = total * old + tl.sum(weights, 0)
        most = new
    acc = tl.where(length > 0, acc / tl.where(total > 0, total, 1.0), 0.0)
    tl.store(out + row.to(tl.int64) * out_row + head * out_head + d, acc.to(out.dtype.element_ty), mask=d < D)


def launch_options(dim_padded: int) -> dict[str, int]:
    """Block of keys, warps and stages for a head dimension: as compiled for sm_80 and sm_90 without spills."""
    return {"BLOCK": 64 if dim_padded <= 128 else 32, "num_warps": 4, "num_stages": 3}


def paged_decode(
    query_RHD: torch.Tensor,
    keys_TKD: torch.Tensor,
    values_TKD: torch.Tensor,
    tables_RP: torch.Tensor,
    lengths_R: torch.Tensor,
    *,
    page_size: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    out: torch.Tensor,
    part: int = PART,
    **options: Any,
) -> torch.Tensor:
    """See `forward.paged_decode`. The last axes of all tensors must be contiguous."""
    rows, heads, dim = query_RHD.shape
    kv_heads = keys_TKD.shape[1]
    groups = heads // kv_heads
    parts = triton.cdiv(tables_RP.shape[1] * page_size, part)
    dim_padded = max(16, triton.next_power_of_2(dim))
    part_out = query_RHD.new_empty((rows, kv_heads, parts, groups, dim), dtype=torch.float32)
    part_lse = query_RHD.new_empty((rows, kv_heads, parts, groups), dtype=torch.float32)
    if softcap is not None:
        scale, softcap = scale / softcap, softcap * _LOG2_E
    else:
        scale = scale * _LOG2_E
    attend_parts[(rows, kv_heads, parts)](
        query_RHD, keys_TKD, values_TKD, tables_RP, lengths_R, part_out, part_lse,
        scale, softcap or 0.0, window or _NO_WINDOW,
        query_RHD.stride(0), query_RHD.stride(1), keys_TKD.stride(0), keys_TKD.stride(1), values_TKD.stride(0),
        values_TKD.stride(1), tables_RP.stride(0), parts,
        PAGE=page_size, PART=part, CAPPED=softcap is not None,
        G=groups, GP=max(16, triton.next_power_of_2(groups)), D=dim, DP=dim_padded,
        **{**launch_options(dim_padded), **options},
    )  # fmt: skip
    merge_parts[(rows, heads)](
        part_out, part_lse, lengths_R, out, window or _NO_WINDOW, out.stride(0), out.stride(1), parts,
        PART=part, TILE=_TILE, G=groups, D=dim, DP=dim_padded, num_warps=2,
    )  # fmt: skip
    return out
