"""Steps beside work on prompts stay within their share of time, whatever the machine and the context cost."""

import pytest

from deployments.model.engine.step_budget import SMALLEST_CHUNK, Pace, Portion, Work

ALONE_S = 0.01
SLOWDOWN = 2.0
ONE_BESIDE_EIGHT = 1 / 8


def _step_s(tokens, context, *, per_token_s=1e-5, per_pair_s=1e-8):
    """What a step costs that also prefills so many tokens after so many others."""
    return ALONE_S + (0.001 + per_token_s * tokens + per_pair_s * tokens * (context + tokens / 2) if tokens else 0.0)


def _prefill(pace, num_tokens, **costs):
    """Steps (tokens, context, seconds) of a prompt beside answers; tokens 0 where the step only decoded."""
    context, steps = 0, []
    while context < num_tokens:
        if pace.rests(ONE_BESIDE_EIGHT):
            steps.append((0, context, _step_s(0, 0)))
            pace.stepped(ALONE_S, None)
            continue
        allowance = pace.chunk(context, ONE_BESIDE_EIGHT)
        tokens = min(allowance.size, num_tokens - context)
        seconds = _step_s(tokens, context, **costs)
        pace.stepped(seconds, Work(allowance, tokens))
        steps.append((tokens, context, seconds))
        context += tokens
    return steps


def test_a_step_takes_about_its_share_at_every_context():
    pace = Pace(512, SLOWDOWN)
    _prefill(pace, 8000)
    steps = _prefill(pace, 8000)
    longest = max(seconds for _, _, seconds in steps)
    assert longest <= 1.15 * SLOWDOWN * ALONE_S
    middle = [seconds for tokens, context, seconds in steps if tokens and 3000 < context < 4000]
    assert min(middle) > 0.8 * SLOWDOWN * ALONE_S


def test_portions_shrink_with_the_context():
    pace = Pace(512, SLOWDOWN)
    _prefill(pace, 30_000)
    early, late = (pace.chunk(context, ONE_BESIDE_EIGHT).size for context in (100, 20_000))
    assert early > 2 * late >= 2 * SMALLEST_CHUNK


def test_nobody_waits_means_whole_chunks():
    pace = Pace(512, SLOWDOWN)
    assert pace.chunk(0, None).size == 512
    assert not pace.rests(None)
    assert Pace(512, None).chunk(0, ONE_BESIDE_EIGHT).size == 512


def test_work_begins_once_decoding_alone_has_been_timed():
    pace = Pace(512, SLOWDOWN)
    assert pace.rests(ONE_BESIDE_EIGHT)
    pace.stepped(ALONE_S, None)
    assert not pace.rests(ONE_BESIDE_EIGHT)


def test_decoding_alone_is_timed_again_now_and_then():
    pace = Pace(512, SLOWDOWN)
    rests = sum(tokens == 0 for tokens, _, _ in _prefill(pace, 8000, per_token_s=1e-3))
    assert rests > 3


@pytest.mark.parametrize(
    ("amount", "seconds", "expected"), [(100, 0.8, 110), (100, 0.5, 150), (100, 2.0, 60), (40, 0.5, 100), (40, 2, 24)]
)
def test_portion_grows_by_its_room_shrinks_at_once_and_ignores_small_remainders(amount, seconds, expected):
    portion = Portion(100, 1, 1000)
    portion.took(amount, seconds, allowed_s=1.0)
    assert portion.size == pytest.approx(expected, abs=1)


def test_portion_stays_within_its_bounds():
    portion = Portion(10, 8, 16)
    for _ in range(20):
        portion.took(portion.size, 0.1, 1.0)
    assert portion.size == 16
    for _ in range(20):
        portion.took(portion.size, 9.0, 1.0)
    assert portion.size == 8
