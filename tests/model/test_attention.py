"""A CPU's attention over the store: each sequence sees its own keys, whichever way they are read."""

import pytest
import torch

from deployments.model.forward.attention import Look, PiecewiseAttention
from deployments.model.forward.batch import Batch, Piece
from deployments.model.kv_cache.pages import PageTable

HEADS, KV_HEADS, HEAD_DIM = 6, 3, 8
NUM_PLACES = 96
KEYS = ([slice(64, 71)], [slice(8, 16), slice(40, 48), slice(24, 29)], [slice(80, 81)])
"""Of three sequences; the second one's pages are scattered."""
LOOK = Look(0.3, None, both_ways=False)


def _batch() -> Batch:
    lengths = [sum(part.stop - part.start for part in where) for where in KEYS]
    none = torch.empty(0, dtype=torch.int64)
    pieces = [Piece(i, i + 1, lengths[i] - 1, list(KEYS[i]), none) for i in range(len(KEYS))]
    return Batch(none, none, none, none, len(pieces), pieces, none)


def _stores() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn((HEADS, len(KEYS), HEAD_DIM), generator=generator)
    keys, values = torch.randn((2, KV_HEADS, NUM_PLACES, HEAD_DIM), generator=generator)
    return query, keys, values


@pytest.fixture(params=[10**9, 0], ids=["copied side by side", "row by row"])
def backend(request):
    return PiecewiseAttention(worth_copying=request.param)


def test_each_row_sees_its_own_keys(backend):
    query, keys, values = _stores()
    found = backend.attend(query, keys, values, _batch(), LOOK)
    for row, where in enumerate(KEYS):
        places = torch.cat([torch.arange(part.start, part.stop) for part in where])
        mine, theirs = (x[:, places].repeat_interleave(HEADS // KV_HEADS, dim=0) for x in (keys, values))
        weights = (torch.einsum("hd,hld->hl", query[:, row], mine) * LOOK.scale).softmax(-1)
        torch.testing.assert_close(found[row], torch.einsum("hl,hld->hd", weights, theirs))


def test_places_of_others_that_are_not_numbers_reach_nobody(backend):
    query, keys, values = _stores()
    for store in (keys, values):
        owned = torch.zeros(NUM_PLACES, dtype=torch.bool)
        for where in KEYS:
            for part in where:
                owned[part] = True
        store[:, ~owned] = torch.nan
    assert backend.attend(query, keys, values, _batch(), LOOK).isfinite().all()


def test_copies_that_grow_with_their_rows_stay_those_of_the_store():
    """In two layers; rows come, go, change places and are computed again."""
    together, apart = PiecewiseAttention(worth_copying=10**9), PiecewiseAttention(worth_copying=0)
    generator = torch.Generator().manual_seed(1)
    layers = [torch.randn((2, KV_HEADS, NUM_PLACES, HEAD_DIM), generator=generator) for _ in range(2)]
    stores = [(keys, values) for keys, values in (layer.unbind() for layer in layers)]
    tables = [PageTable(4) for _ in range(3)]
    for number, table in enumerate(tables):
        table.extend([number, *range(5 + 5 * number, 10 + 5 * number)])
    lengths = [6, 2, 3]
    none = torch.empty(0, dtype=torch.int64)
    for rows in ([0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 2], [0, 2], [2, 0], [2, 0, 1], [2, 0, 1]):
        for again in (False, True) if lengths[0] == 8 else (False,):
            pieces = [
                Piece(i, i + 1, lengths[row], tables[row].slices(0, lengths[row] + 1), none, table=tables[row])
                for i, row in enumerate(rows)
            ]
            for layer in layers[: 1 if again else 2]:  # a pass that fails after its first layer, as it were
                for row in rows:
                    place = tables[row].place(lengths[row])
                    layer[:, :, place] = torch.randn((2, KV_HEADS, HEAD_DIM), generator=generator)
            query = torch.randn((HEADS, len(rows), HEAD_DIM), generator=generator)
            batches = [Batch(none, none, none, none, len(rows), pieces, none) for _ in range(2)]
            for keys, values in stores[: 1 if again else 2]:
                found, wanted = (
                    way.attend(query, keys, values, batch, LOOK)
                    for way, batch in zip((together, apart), batches, strict=True)
                )
                torch.testing.assert_close(found, wanted)
        for row in rows:
            lengths[row] += 1
