"""Pieces of one row attend as each would alone."""

import pytest
import torch

from deployments.model.forward.varlen import varlen

CASES = {
    "whole prompts": ([5, 1, 9], [5, 1, 9], {"causal": True}),
    "prompts whose beginning is in the cache": ([5, 1, 3, 3], [9, 7, 3, 3], {"causal": True}),
    "a window": ([5, 1, 6], [9, 7, 6], {"causal": True, "window": 4}),
    "both ways": ([4, 4, 4, 7], [4, 4, 4, 7], {"causal": False}),
}


@pytest.mark.parametrize(("sizes_q", "sizes_k", "settings"), CASES.values(), ids=CASES)
def test_pieces_see_their_own_keys_alone(sizes_q, sizes_k, settings):
    torch.manual_seed(0)
    query = torch.randn(sum(sizes_q), 6, 8, dtype=torch.float64)
    keys, values = torch.randn(2, sum(sizes_k), 2, 8, dtype=torch.float64)
    cu_q, cu_k = (torch.tensor([0, *sizes]).cumsum(0).int() for sizes in (sizes_q, sizes_k))
    found = varlen(query, keys, values, cu_q, cu_k, max(sizes_q), max(sizes_k), scale=0.3, **settings)
    pieces = zip(query.split(sizes_q), keys.split(sizes_k), values.split(sizes_k), strict=True)
    wanted = torch.cat([_plain(*piece, **settings) for piece in pieces])
    torch.testing.assert_close(found, wanted)


def _plain(query, keys, values, causal, window=None):
    """The last query looks at all keys, the one before it at all but the last, and so on."""
    places_q = torch.arange(len(keys) - len(query), len(keys))[:, None]
    places_k = torch.arange(len(keys))[None]
    seen = places_k <= places_q if causal else torch.ones(len(query), len(keys), dtype=torch.bool)
    if window is not None:
        seen &= places_k > places_q - window
    keys, values = keys.repeat_interleave(3, dim=1), values.repeat_interleave(3, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query, keys) * 0.3
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), values)
