"""What a model replica tells autoscaling of its work: prompts to prefill, slots taken and waited for."""

import numpy as np
import pytest

from deployments.autoscaling import replicas_for
from deployments.model.engine.load import RECENT, EngineLoad
from tests.model.conftest import SteppedEngine, greedy
from tests.support.tiny_families import Prompt

SLOTS = 4


def _text(length, seed=0):
    return Prompt(np.random.default_rng(seed).integers(10, 140, size=length).astype(np.int32), {})


@pytest.fixture
def stepped(qwen3_vl):
    return SteppedEngine(qwen3_vl, max_running=SLOTS, max_context_tokens=256, prefill_chunk_tokens=16)


@pytest.fixture
def load(stepped):
    """Of an engine that computes 100 tokens a second, whatever the machine; a second of them is its target."""
    load = EngineLoad(stepped.engine._scheduler, stepped.engine._cache, target_backlog_s=1.0, target_kv_usage=0.5)
    load.record_step(1.0, prompts=1, prefilled=100)
    return load


def _submit(stepped, load, prompt, params):
    sequence, _ = stepped.submit(prompt, params)
    stepped.engine._take_in()
    load.record_arrival(sequence)
    return sequence


def _load(load):
    load.update()
    return load.load


def test_nothing_is_said_before_the_first_request(load):
    assert _load(load) is None


def test_long_prompts_weigh_by_the_time_that_their_prefill_will_take(stepped, load):
    sequence = _submit(stepped, load, _text(80), greedy(2))
    assert _load(load).in_hand == pytest.approx(0.8)
    stepped.step()
    left = sequence.num_prompt - sequence.num_prefilled
    assert 0 < left < 80
    assert _load(load).in_hand == pytest.approx(max(left / 100, 0.5))
    assert _load(load).of_next == pytest.approx(0.8)


def test_a_slower_prefill_weighs_more(stepped, load):
    _submit(stepped, load, _text(20), greedy(2))
    _submit(stepped, load, _text(20), greedy(2))
    _submit(stepped, load, _text(40), greedy(2))
    before = _load(load).of_next
    for _ in range(50):
        load.record_step(0.2, prompts=1, prefilled=10)  # half the pace
    assert before == pytest.approx(0.5)  # a slot
    assert _load(load).of_next == pytest.approx((0.4 + 0.4 + 0.8) / 3, rel=0.1)


def test_steps_without_prompts_say_nothing_of_the_pace(stepped, load):
    _submit(stepped, load, _text(80), greedy(2))
    for _ in range(50):
        load.record_step(1.0, prompts=0, prefilled=0)
    assert _load(load).in_hand == pytest.approx(0.8)


def test_one_prompt_counts_one_replica_at_most(stepped, load):
    _submit(stepped, load, _text(200), greedy(2))
    assert _load(load).in_hand == 1
    assert _load(load).of_next == 1


def test_short_prompts_weigh_by_the_slots_taken_and_waited_for(stepped, load):
    for seed in range(6):
        _submit(stepped, load, _text(3, seed), greedy(20))
    stepped.step(3)
    assert stepped.state.running == SLOTS
    assert _load(load).in_hand == pytest.approx(6 / (SLOTS * 0.5))
    assert _load(load).of_next == pytest.approx(1 / (SLOTS * 0.5))


def test_answers_of_one_request_take_a_slot_each(stepped, load):
    _submit(stepped, load, _text(3), greedy(20, n=3))
    stepped.step(2)
    assert _load(load).in_hand == pytest.approx(3 / (SLOTS * 0.5))


def test_the_next_request_is_judged_by_the_last_ones(stepped, load):
    for length in [90] * RECENT + [60] * RECENT:
        _submit(stepped, load, _text(length), greedy(1))
        stepped.run()
    assert _load(load).of_next == pytest.approx(0.6)


def test_the_engine_tells_its_own_load_and_nothing_of_what_has_ended(stepped):
    for seed in range(3):
        stepped.submit(_text(30, seed), greedy(3))
    stepped.step()
    stepped.engine._load.update()
    assert stepped.engine.load.in_hand > 0
    stepped.run()
    stepped.engine._load.update()
    assert stepped.engine.load.in_hand == 0
    assert stepped.engine.load.of_next > 0
    assert stepped.engine._load._prefill(30) > 0  # it knows its pace


# ── pages of the KV cache ────────────────────────────────────────────────────────────────────────────────────────────

PAGE, PAGES_GIB = 8, 2e-4
"""Of so much, thirty-odd pages of the tiny model: long prompts fill them before the places."""


@pytest.fixture
def few_pages(qwen3_vl):
    return SteppedEngine(qwen3_vl, kv_cache_gib=PAGES_GIB, page_tokens=PAGE, max_running=32, max_context_tokens=160)


@pytest.fixture
def page_load(few_pages):
    """Of an engine that prefills next to nothing in no time: pages decide."""
    load = EngineLoad(few_pages.engine._scheduler, few_pages.engine._cache, target_backlog_s=1e6, target_kv_usage=0.5)
    load.record_step(1.0, prompts=1, prefilled=100)
    return load


def _target(stepped):
    return 0.5 * stepped.engine._cache.pool.num_pages


def test_pages_that_are_taken_and_waited_for_ask_for_another_replica(few_pages, page_load):
    pages = few_pages.engine._cache.pool.num_pages
    for seed in range(3):
        _submit(few_pages, page_load, _text(100, seed), greedy(20))
    wanted = _load(page_load).in_hand * _target(few_pages)
    assert wanted == pytest.approx(3 * 13)  # 100 tokens in pages of 8
    assert wanted > pages / 2
    assert replicas_for(_load(page_load).in_hand, 1) >= 2
    few_pages.step(6)
    assert few_pages.state.waiting >= 1  # one has no room here: another replica would have
    assert replicas_for(_load(page_load).in_hand, 1) >= 2
    few_pages.run()
    assert _load(page_load).in_hand == 0


def test_requests_that_begin_alike_weigh_their_common_pages_once(few_pages, page_load):
    few_pages.submit(_text(64), greedy(2))
    few_pages.run()
    for _ in range(4):
        _submit(few_pages, page_load, _text(64), greedy(20))
    few_pages.step(3)
    assert few_pages.state.running == 4
    held = _load(page_load).in_hand * _target(few_pages)
    assert held == few_pages.state.pages_used
    assert held < 2 * 64 / PAGE  # four times eight, if each had its own


def test_pages_that_are_only_kept_for_others_weigh_nothing(few_pages, page_load):
    _submit(few_pages, page_load, _text(100), greedy(2))
    few_pages.run()
    assert few_pages.state.pages_cached > 0
    assert _load(page_load).in_hand == 0
