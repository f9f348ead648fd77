"""Kernels give what plain torch gives: on a card, or interpreted (its products of bfloat16 are wrong: none here)."""

import pytest
import torch
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen

from deployments.model.forward.paged_decode import paged_decode

pytest.importorskip("triton")

from deployments.model.kernels import decode, pointwise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3}
LENGTHS = [1, 0, 63, 64, 65, 150]


def paged(page, groups, dim, lengths, dtype, kv_heads=2):
    """Queries, keys, values, tables of shuffled pages, lengths."""
    generator = torch.Generator().manual_seed(page + groups + dim)
    per_row = -(-max(lengths) // page) + 1
    tables = torch.randperm(len(lengths) * per_row, generator=generator).to(torch.int32).view(len(lengths), per_row)
    keys, values = (torch.randn((tables.numel() * page, kv_heads, dim), generator=generator) for _ in range(2))
    query = torch.randn((len(lengths), kv_heads * groups, dim), generator=generator)
    held = torch.tensor(lengths, dtype=torch.int32)
    return *(t.to(DEVICE, dtype) for t in (query, keys, values)), tables.to(DEVICE), held.to(DEVICE)


def kernel(case, part=64, **settings):
    settings = {"window": None, "softcap": None, **settings}
    return decode.paged_decode(*case, out=torch.full_like(case[0], torch.nan), part=part, **settings)


@DTYPES
@pytest.mark.parametrize(
    ("page", "groups", "dim", "settings"),
    [
        (16, 1, 64, {}),
        (32, 3, 80, {"window": 48}),
        (256, 7, 128, {"window": 1}),
        (64, 2, 96, {"softcap": 2.0}),
        (16, 2, 256, {"window": 100, "softcap": 5.0}),
    ],
    ids=["pages of 16", "odd heads, window", "window of one", "soft cap", "wide heads, both"],
)
def test_decode_attention_reads_pages_as_plain_attention_reads_keys(dtype, page, groups, dim, settings):
    case = paged(page, groups, dim, LENGTHS, dtype)
    settings = {"page_size": page, "scale": dim**-0.5, **settings}
    wide = [t.double() if t.is_floating_point() else t for t in case]
    torch.testing.assert_close(
        kernel(case, **settings).double(), paged_decode(*wide, **settings), atol=TOLERANCE[dtype], rtol=0
    )


def test_row_of_a_decode_step_has_the_same_bits_in_any_batch():
    query, keys, values, tables, lengths = paged(16, 4, 64, [140, 3, 90], torch.float32)
    settings = {"page_size": 16, "scale": 0.125}
    together = kernel((query, keys, values, tables, lengths), **settings)
    for row, width in enumerate((9, 1, 6)):
        alone = query[row : row + 1], keys, values, tables[row : row + 1, :width], lengths[row : row + 1]
        assert torch.equal(kernel(alone, **settings)[0], together[row])


def test_idle_rows_of_a_decode_step_are_zeros():
    assert not kernel(paged(16, 2, 64, [0, 5], torch.float32), page_size=16, scale=0.125)[0].any()


def heads(dtype, tokens=5, dim=48):
    """A merged projection's parts [1, N, heads, D]: strided, as the layers see them."""
    torch.manual_seed(0)
    row = torch.randn(1, tokens, (6 + 2 + 2) * dim, device=DEVICE).to(dtype)
    parts = row.split([6 * dim, 2 * dim, 2 * dim], dim=-1)
    cos, sin = (torch.randn(1, tokens, dim, device=DEVICE).to(dtype) for _ in range(2))
    return *(part.view(1, tokens, -1, dim) for part in parts), cos, sin


def norm(width, dtype):
    module = qwen.Qwen3VLTextRMSNorm(width, eps=1e-5).to(DEVICE, dtype)
    module.weight.data.uniform_(0.5, 1.5)  # ones would hide the order of rounding
    return module.requires_grad_(False)


@DTYPES
def test_norms_of_rows_and_of_heads(dtype):
    query, *_ = heads(dtype)
    whole = query.reshape(5, -1)
    for x in (query, whole):
        module = norm(x.shape[-1], dtype)
        _close(pointwise.rms_norm(x, module.weight, 1e-5), module(x), dtype)


@DTYPES
def test_norm_of_a_sum(dtype):
    a, b = torch.randn(2, 1, 5, 200, device=DEVICE).to(dtype)
    module = norm(200, dtype)
    total, normed = pointwise.add_rms_norm(a, b, module.weight, 1e-5)
    _close(total, a + b, dtype)
    _close(normed, module(a + b), dtype)


@DTYPES
def test_rotary_embedding_with_and_without_norms_of_the_heads(dtype):
    query, keys, _, cos, sin = heads(dtype)
    plain = query.transpose(1, 2), keys.transpose(1, 2)
    for found, wanted in zip(
        pointwise.rotate(*plain, cos, sin), qwen.apply_rotary_pos_emb(*plain, cos, sin), strict=True
    ):
        _close(found, wanted, dtype)
    norms = norm(48, dtype), norm(48, dtype)
    normed = norms[0](query).transpose(1, 2), norms[1](keys).transpose(1, 2)
    found = pointwise.rotate(*plain, cos, sin, tuple((n.weight, 1e-5) for n in norms))
    for mine, wanted in zip(found, qwen.apply_rotary_pos_emb(*normed, cos, sin), strict=True):
        _close(mine, wanted, dtype)


@DTYPES
def test_gate(dtype):
    both = torch.randn(1, 5, 2 * 300, device=DEVICE).to(dtype)
    _close(pointwise.silu_and_multiply(both), torch.nn.functional.silu(both[..., :300]) * both[..., 300:], dtype)


def test_new_keys_and_values_go_to_their_places_alone():
    _, new_keys, new_values, *_ = heads(torch.float32)
    keys, values = torch.zeros(2, 20, 2, 48, device=DEVICE)
    places = torch.tensor([3, 19, 0, 7, 8], device=DEVICE)
    pointwise.store(new_keys.transpose(1, 2), new_values.transpose(1, 2), keys, values, places)
    for store, new in ((keys, new_keys), (values, new_values)):
        assert torch.equal(store[places], new[0])
        assert set(store.flatten(1).any(1).nonzero()[:, 0].tolist()) == set(places.tolist())


def _close(found, wanted, dtype):
    torch.testing.assert_close(found, wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
