"""What stands between matrix products, a kernel each: norms, rotary embedding, gated activation, writing to the store.

They round where transformers' own statements round, so that a fused model differs from the plain one by the order of
sums, and by a product and a sum that a card does as one.

Shape legend: N tokens, H query heads, K key/value heads, D width of a row, F width of a gate.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def rms_norm_rows(
    x, residual, weight, out, total, eps, x_token, x_head, residual_token, num_rows, heads,
    D: tl.constexpr, DP: tl.constexpr, ROWS: tl.constexpr, ADDS: tl.constexpr,
):  # fmt: skip
    """Rows of D values, `heads` of them a token. With ADDS: of x + residual, which is written to `total`."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, DP)
    there = (rows < num_rows)[:, None] & (d < D)[None, :]
    token, head = (rows // heads).to(tl.int64), rows % heads
    values = tl.load(x + (token * x_token + head * x_head)[:, None] + d[None, :], mask=there, other=0.0)
    at = rows.to(tl.int64)[:, None] * D + d[None, :]
    if ADDS:
        before = tl.load(residual + (token * residual_token)[:, None] + d[None, :], mask=there, other=0.0)
        values = (before.to(tl.float32) + values.to(tl.float32)).to(out.dtype.element_ty)
        tl.store(total + at, values, mask=there)
    wide = values.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 1) / D + eps)
    normed = (wide * scale[:, None]).to(out.dtype.element_ty).to(tl.float32)
    factor = tl.load(weight + d, mask=d < D, other=0.0).to(tl.float32)
    tl.store(out + at, (normed * factor[None, :]).to(out.dtype.element_ty), mask=there)


@triton.jit
def _turned(
    x, weight, out, cos, sin, eps, token, x_token, x_head, cos_token, first, heads,
    D: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr, NORMS: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """HEADS heads of one token, from `first`: normed, then turned by the token's angles; with ROUNDS each product is
    rounded before the sum."""
    h, d = first + tl.arange(0, HEADS), tl.arange(0, HALF)
    kind = out.dtype.element_ty
    there = (h < heads)[:, None] & (d < D // 2)[None, :]
    at = token * x_token + (h * x_head)[:, None] + d[None, :]
    low = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    high = tl.load(x + at + D // 2, mask=there, other=0.0).to(tl.float32)
    if NORMS:
        scale = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / D + eps)[:, None]
        low_factor = tl.load(weight + d, mask=d < D // 2, other=0.0).to(tl.float32)[None, :]
        high_factor = tl.load(weight + D // 2 + d, mask=d < D // 2, other=0.0).to(tl.float32)[None, :]
        low = ((low * scale).to(kind).to(tl.float32) * low_factor).to(kind).to(tl.float32)
        high = ((high * scale).to(kind).to(tl.float32) * high_factor).to(kind).to(tl.float32)
    angle = token * cos_token + d
    low_cos = tl.load(cos + angle, mask=d < D // 2, other=0.0).to(tl.float32)[None, :]
    high_cos = tl.load(cos + angle + D // 2, mask=d < D // 2, other=0.0).to(tl.float32)[None, :]
    low_sin = tl.load(sin + angle, mask=d < D // 2, other=0.0).to(tl.float32)[None, :]
    high_sin = tl.load(sin + angle + D // 2, mask=d < D // 2, other=0.0).to(tl.float32)[None, :]
    low_out, low_more = low * low_cos, -high * low_sin
    high_out, high_more = high * high_cos, low * high_sin
    if ROUNDS:
        low_out, low_more = low_out.to(kind).to(tl.float32), low_more.to(kind).to(tl.float32)
        high_out, high_more = high_out.to(kind).to(tl.float32), high_more.to(kind).to(tl.float32)
    to = (token * heads + h)[:, None] * D + d[None, :]
    tl.store(out + to, (low_out + low_more).to(kind), mask=there)
    tl.store(out + to + D // 2, (high_out + high_more).to(kind), mask=there)


@triton.jit
def rotate_heads(
    query, keys, query_weight, key_weight, query_out, keys_out, cos, sin, query_eps, key_eps,
    query_token, query_head, key_token, key_head, cos_token, query_heads, key_heads,
    D: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr, NORMS: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Rotary embedding of a token's queries and keys, after a norm of each head with NORMS."""
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    query_blocks = tl.cdiv(query_heads, HEADS)
    if block < query_blocks:
        _turned(query, query_weight, query_out, cos, sin, query_eps, token, query_token, query_head, cos_token,
                block * HEADS, query_heads, D, HALF, HEADS, NORMS, ROUNDS)  # fmt: skip
    else:
        _turned(keys, key_weight, keys_out, cos, sin, key_eps, token, key_token, key_head, cos_token,
                (block - query_blocks) * HEADS, key_heads, D, HALF, HEADS, NORMS, ROUNDS)  # fmt: skip


@triton.jit
def silu_gate(both, out, num_features, both_token, BLOCK: tl.constexpr):
    """silu(gate) * up of a token, whose gate and up values follow each other."""
    token = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = f < num_features
    gate = tl.load(both + token * both_token + f, mask=there, other=0.0).to(tl.float32)
    up = tl.load(both + token * both_token + num_features + f, mask=there, other=0.0).to(tl.float32)
    active = (gate * tl.sigmoid(gate)).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + token * num_features + f, (active * up).to(out.dtype.element_ty), mask=there)


@triton.jit
def store_tokens(
    new_keys, new_values, keys, values, places, key_token, value_token, new_key_head, new_value_head, width_k, width_v,
    new_key_token, new_value_token, D: tl.constexpr, DV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A token's new key and value, to its place in the store."""
    token = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = tl.load(places + token).to(tl.int64)
    new = tl.load(new_keys + token * new_key_token + i // D * new_key_head + i % D, mask=i < width_k, other=0.0)
    tl.store(keys + place * key_token + i, new, mask=i < width_k)
    new = tl.load(new_values + token * new_value_token + i // DV * new_value_head + i % DV, mask=i < width_v, other=0.0)
    tl.store(values + place * value_token + i, new, mask=i < width_v)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm over the last axis of [..., D]; of heads [1, N, H, D], which may be strided, or of contiguous rows."""
    width = x.shape[-1]
    if x.ndim == 4 and len(x) == 1 and x.stride(-1) == 1:
        tokens, heads, (x_token, x_head) = x.shape[1], x.shape[2], x.stride()[1:3]
    else:
        x = x.contiguous()
        tokens, heads, x_token, x_head = x.numel() // width, 1, width, 0
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _norm(x, x, weight, out, out, eps, (x_token, x_head, 0), tokens * heads, heads, width, adds=False)
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + residual [..., D], and its RMS norm."""
    width = x.shape[-1]
    x, residual = x.contiguous(), residual.contiguous()
    total, out = torch.empty_like(x), torch.empty_like(x)
    strides = (width, 0, width)
    _norm(x, residual, weight, out, total, eps, strides, x.numel() // width, 1, width, adds=True)
    return total, out


def _norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    total: torch.Tensor,
    eps: float,
    strides: tuple[int, int, int],
    num_rows: int,
    heads: int,
    width: int,
    *,
    adds: bool,
) -> None:
    if not num_rows:
        return
    padded = triton.next_power_of_2(width)
    rows = max(1, min(16, 2048 // padded))
    rms_norm_rows[(triton.cdiv(num_rows, rows),)](
        x, residual, weight, out, total, eps, *strides, num_rows, heads,
        D=width, DP=padded, ROWS=rows, ADDS=adds, num_warps=max(1, min(8, rows * padded // 512)),
    )  # fmt: skip


def rotate(
    query: torch.Tensor,
    keys: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    norms: tuple[tuple[torch.Tensor, float], tuple[torch.Tensor, float]] | None = None,
    *,
    rounds: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary embedding of [1, H, N, D] queries and [1, K, N, D] keys by cos and sin [1, N, D].

    `norms`: weight and epsilon of an RMS norm over each head's values before that, of queries and of keys.
    `rounds`: each product to the queries' type before the sum; otherwise the sum alone. Results are views of
    [1, N, H, D] and [1, N, K, D].
    """
    _, heads, tokens, dim = query.shape
    kv_heads = keys.shape[1]
    query_out = torch.empty((1, tokens, heads, dim), dtype=query.dtype, device=query.device)
    keys_out = torch.empty((1, tokens, kv_heads, dim), dtype=query.dtype, device=query.device)
    (query_weight, query_eps), (key_weight, key_eps) = norms or ((query, 0.0), (keys, 0.0))
    half = triton.next_power_of_2(dim // 2)
    block = max(1, min(8, 512 // half))
    if tokens:
        rotate_heads[(tokens, triton.cdiv(heads, block) + triton.cdiv(kv_heads, block))](
            query, keys, query_weight, key_weight, query_out, keys_out, cos, sin, query_eps, key_eps,
            query.stride(2), query.stride(1), keys.stride(2), keys.stride(1), cos.stride(1), heads, kv_heads,
            D=dim, HALF=half, HEADS=block, NORMS=norms is not None, ROUNDS=rounds, num_warps=2,
        )  # fmt: skip
    return query_out.transpose(1, 2), keys_out.transpose(1, 2)


def silu_and_multiply(both: torch.Tensor) -> torch.Tensor:
    """[..., F] from [..., 2 F]: silu of the first half times the second."""
    width = both.shape[-1] // 2
    out = both.new_empty((*both.shape[:-1], width))
    both = both.reshape(-1, 2 * width)
    block = 1024
    if len(both):
        silu_gate[(len(both), triton.cdiv(width, block))](both, out, width, both.stride(0), BLOCK=block, num_warps=4)
    return out


def store(
    new_keys: torch.Tensor, new_values: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, places_N: torch.Tensor
) -> None:
    """Write [1, K, N, D] new keys and values to their places in [T, K, D] stores, whose tokens are contiguous."""
    _, heads, tokens, dim = new_keys.shape
    value_dim = new_values.shape[-1]
    wider = heads * max(dim, value_dim)
    block = min(1024, triton.next_power_of_2(wider))
    if tokens:
        store_tokens[(tokens, triton.cdiv(wider, block))](
            new_keys, new_values, keys, values, places_N, keys.stride(0), values.stride(0),
            new_keys.stride(1), new_values.stride(1), heads * dim, heads * value_dim,
            new_keys.stride(2), new_values.stride(2), D=dim, DV=value_dim, BLOCK=block, num_warps=4,
        )  # fmt: skip
