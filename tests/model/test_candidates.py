"""Tokens drawn among the most likely ones are those that the whole vocabulary would give."""

import pytest
import torch

from deployments.model.sampling.candidates import CANDIDATES, DrawSettings, draw, draw_from_all

V = 5000
ROWS = 64
LOGITS = 3 * torch.randn(ROWS, V, generator=torch.Generator().manual_seed(0))
UNIFORM = torch.rand(ROWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def settings(temperature=1.0, top_p=1.0, top_k=V, min_p=0.0):
    columns = torch.tensor([temperature, top_p, top_k, min_p], dtype=torch.float64).expand(ROWS, 4)
    return DrawSettings.of(torch.cat([columns, UNIFORM[:, None]], dim=1))


@pytest.mark.parametrize(
    "limits",
    [{"temperature": 0.7, "top_p": 0.9}, {"top_k": 50}, {"min_p": 0.02}, {"temperature": 5.0, "top_k": CANDIDATES}],
    ids=str,
)
def test_limited_rows_draw_what_a_sort_of_all_gives(limits):
    drawn = draw(LOGITS, settings(**limits))
    assert not drawn.wide_R.any()
    assert torch.equal(drawn.tokens_R, draw_from_all(LOGITS, settings(**limits)))


def test_rows_whose_limits_reach_further_are_told_apart():
    assert draw(LOGITS, settings(temperature=3.0, top_p=0.99)).wide_R.all()


def test_rows_without_limits_draw_from_all():
    cumulated = LOGITS.softmax(-1).double().cumsum(-1)
    wanted = torch.searchsorted(cumulated, UNIFORM[:, None] * cumulated[:, -1:], right=True)[:, 0]
    drawn = draw(LOGITS, settings())
    assert not drawn.wide_R.any()
    assert torch.equal(drawn.tokens_R, wanted)


def test_no_temperature_is_the_most_likely_token():
    assert torch.equal(draw(LOGITS, settings(temperature=0.0)).tokens_R, LOGITS.argmax(-1))


def test_banned_tokens_are_never_drawn():
    logits = LOGITS.masked_fill(torch.arange(V) % 3 > 0, -torch.inf)
    for limits in ({}, {"top_p": 0.5}):
        assert (draw(logits, settings(**limits)).tokens_R % 3 == 0).all()


def test_rows_that_are_not_numbers_are_told_apart():
    logits = LOGITS.clone()
    logits[3, 7] = torch.nan
    assert draw(logits, settings()).broken_R.nonzero().tolist() == [[3]]
