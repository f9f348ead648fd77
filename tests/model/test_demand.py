"""What a model replica tells autoscaling of its work: prompts to prefill, slots taken and waited for."""

import numpy as np
import pytest

from deployments.model.demand import RECENT
from tests.model.conftest import Bench, greedy
from tests.tiny_families import Prompt

SLOTS = 4


def _text(length, seed=0):
    return Prompt(np.random.default_rng(seed).integers(10, 140, size=length).astype(np.int32), {})


@pytest.fixture
def bench(qwen3_vl):
    settings = {"target_prefill_tokens": 100, "target_kv_usage": 0.5, "prefill_chunk_tokens": 16}
    return Bench(qwen3_vl, max_running=SLOTS, max_context_tokens=256, **settings)


def _load(bench):
    bench.engine._demand.update()
    return bench.engine.load


def test_nothing_is_said_before_the_first_request(bench):
    assert _load(bench) is None


def test_long_prompts_weigh_by_the_tokens_still_to_prefill(bench):
    sequence, _ = bench.submit(_text(80), greedy(2))
    bench.engine._take_in()
    assert _load(bench).in_hand == pytest.approx(0.8)
    bench.step()
    left = sequence.num_prompt - sequence.num_prefilled
    assert 0 < left < 80
    assert _load(bench).in_hand == pytest.approx(max(left / 100, 0.5))
    assert _load(bench).of_next == pytest.approx(0.8)


def test_one_prompt_counts_one_replica_at_most(bench):
    bench.submit(_text(200), greedy(2))
    bench.engine._take_in()
    assert _load(bench).in_hand == 1
    assert _load(bench).of_next == 1


def test_short_prompts_weigh_by_the_slots_taken_and_waited_for(bench):
    for seed in range(6):
        bench.submit(_text(3, seed), greedy(20))
    bench.step(3)
    assert len(bench.engine._scheduler.slots) == SLOTS
    assert _load(bench).in_hand == pytest.approx(6 / (SLOTS * 0.5))
    assert _load(bench).of_next == pytest.approx(1 / (SLOTS * 0.5))


def test_answers_of_one_request_take_a_slot_each(bench):
    bench.submit(_text(3), greedy(20, n=3))
    bench.step(2)
    assert _load(bench).in_hand == pytest.approx(3 / (SLOTS * 0.5))


def test_what_has_ended_weighs_nothing(bench):
    for seed in range(3):
        bench.submit(_text(30, seed), greedy(3))
    while bench.engine.busy:
        bench.step()
    assert _load(bench).in_hand == 0
    assert _load(bench).of_next > 0


def test_the_next_request_is_judged_by_the_last_ones(bench):
    for length in [90] * RECENT + [60] * RECENT:
        bench.submit(_text(length), greedy(1))
        while bench.engine.busy:
            bench.step()
    assert _load(bench).of_next == pytest.approx(0.6)
