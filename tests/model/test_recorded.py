"""Recorded steps and draws give what launched ones give; a tape stands for the graphs of a card."""

import numpy as np
import pytest
import torch

from deployments.model.forward.batch import Chunk, Row
from deployments.model.sampling.candidates import DrawSettings, draw
from deployments.model.sampling.recorded_draws import RecordedDraws
from deployments.types import SamplingParams
from tests.model.conftest import SteppedEngine, generate, greedy
from tests.model.recorded_engine import CPU, RecordedEngine, make_runner
from tests.support.tape import TapeRecorder
from tests.support.tiny_families import FAMILIES


def _asked(family, kinds, rng):
    """Answers that begin one after the other and end at unequal times: any number of rows up to five."""
    return [(family.prompt(rng, some), length) for some, length in zip(kinds, (21, 5, 14, 9, 11), strict=False)]


@pytest.mark.parametrize("name", ["qwen2_5_omni", "gemma4"])
def test_replayed_steps_answer_as_launched_ones(name):
    """Rotary axes and fractions of positions; windows and layers that share keys; tables that outgrow what is recorded
    for shorter ones."""
    family = FAMILIES[name]
    model = family.build()
    kinds = [[], *([kind] for kind in family.media), *([["sounding"]] if family.sounding else []), []]
    asked = _asked(family, kinds, np.random.default_rng(3))
    stepped = RecordedEngine(model, max_running=5, page_tokens=4)
    listeners = []
    for prompt, length in asked:
        listeners.append(stepped.submit(prompt, greedy(length))[1])
        stepped.step(2)
    stepped.run()
    assert stepped.steps.replays > 10
    for (prompt, length), listener in zip(asked, listeners, strict=True):
        assert listener.error is None
        assert listener.ids() == generate(model, prompt, length)


def test_replayed_steps_follow_pages_that_move(qwen3_vl):
    """Too few pages for all: who makes way comes back to others, at which a recorded step had looked before."""
    family = FAMILIES["qwen3_vl"]
    prompts = [family.prompt(np.random.default_rng(n), ["image"]) for n in range(4)]
    stepped = RecordedEngine(qwen3_vl, page_tokens=4, kv_cache_gib=80_000 / 2**30)
    listeners = [stepped.submit(prompt, greedy(16, n=2))[1] for prompt in prompts]
    stepped.run()
    assert stepped.state.preemptions
    assert stepped.steps.replays
    for prompt, listener in zip(prompts, listeners, strict=True):
        assert listener.ids(0) == listener.ids(1) == generate(qwen3_vl, prompt, 16)


def test_more_rows_than_are_recorded_are_launched(qwen3_vl):
    family = FAMILIES["qwen3_vl"]
    prompts = [family.prompt(np.random.default_rng(n), []) for n in range(3)]
    stepped = RecordedEngine(qwen3_vl, largest=2, max_running=3)
    listeners = [stepped.submit(prompt, greedy(length))[1] for prompt, length in zip(prompts, (4, 8, 12), strict=True)]
    stepped.step(3)
    assert not stepped.steps.replays
    stepped.run()
    assert stepped.steps.replays
    assert [listener.ids() for listener in listeners] == [
        generate(qwen3_vl, prompt, length) for prompt, length in zip(prompts, (4, 8, 12), strict=True)
    ]


@pytest.mark.parametrize("name", ["qwen3_vl_moe", "qwen3_5"])
def test_steps_that_can_not_be_recorded_are_launched(name):
    """Routers that ask the device for a number, recurrent layers."""
    family = FAMILIES[name]
    model = family.build()
    prompt = family.prompt(np.random.default_rng(0), [])
    stepped = RecordedEngine(model)
    _, listener = stepped.submit(prompt, greedy())
    stepped.run()
    assert not stepped.steps.replays
    assert listener.ids() == generate(model, prompt)


def test_idle_rows_touch_nothing_and_results_outlive_the_next_step(qwen3_vl):
    runner = make_runner(qwen3_vl, page_tokens=4, max_context_tokens=16)
    cache = runner.cache
    tables = [cache.open() for _ in range(3)]
    for number, table in enumerate(tables):
        assert cache.reserve(table, 12)
        runner.run([], [(Chunk(torch.arange(20, 29 + number % 2) + number, 0, None, table), None)])
    rows = [Row(30 + n, 9 + n % 2, (0, 0, 0), table) for n, table in enumerate(tables)]
    wanted = runner.run(rows, [])  # launched
    layer = cache.layers.layers[0]
    before = layer.keys.clone()
    runner.record_graphs(4, TapeRecorder())
    nobodys = layer.keys[:, cache.nobodys_place :]
    assert torch.equal(layer.keys[:, : cache.nobodys_place], before[:, : cache.nobodys_place])
    found = runner.run(rows, [])  # of four rows one idles
    torch.testing.assert_close(layer.keys[:, : cache.nobodys_place], before[:, : cache.nobodys_place])
    assert nobodys.isfinite().all()
    runner.run(rows[::-1], [])
    torch.testing.assert_close(found, wanted)


VOCABULARY = 3000


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 3, 5])
def test_recorded_draws_are_those_that_are_launched(rows):
    generator = torch.Generator().manual_seed(rows)
    recorder = TapeRecorder()
    recorded = RecordedDraws(VOCABULARY, 5, CPU, recorder)
    for _ in range(2):  # the second time over what the first one left
        logits = 3 * torch.randn(rows, VOCABULARY, generator=generator)
        logits[-1, 7] = torch.nan if rows == 5 else 0.0
        ways = torch.tensor(
            [(0.0, 1.0, VOCABULARY, 0.0), (0.8, 0.9, 40, 0.0), (3.0, 0.999, VOCABULARY, 0.0), (1.0, 1.0, VOCABULARY, 0)]
        )[torch.arange(rows) % 4]
        columns = torch.cat([ways.double(), torch.rand(rows, 1, generator=generator, dtype=torch.float64)], dim=1)
        found, wanted = recorded.draw(logits, columns), draw(logits, DrawSettings.of(columns))
        sound = ~wanted.broken_R
        assert torch.equal(found.broken_R, wanted.broken_R)
        assert torch.equal(found.wide_R[sound], wanted.wide_R[sound])
        assert torch.equal(found.tokens_R[sound], wanted.tokens_R[sound])
    assert recorder.replays == 2


def test_sampled_answers_are_the_same_replayed_and_launched(qwen3_vl):
    """Beside greedy rows, and rows that ask for more than draws, which are launched."""
    family = FAMILIES["qwen3_vl"]
    prompts = [family.prompt(np.random.default_rng(n), []) for n in range(4)]
    ways = [
        SamplingParams(max_tokens=9, seed=1, temperature=0.9, top_p=0.8),
        greedy(6),
        SamplingParams(max_tokens=12, seed=2, temperature=1.3),
        SamplingParams(max_tokens=4, seed=3, temperature=1.0, logprobs=1),
    ]
    answers = []
    for stepped in (RecordedEngine(qwen3_vl), SteppedEngine(qwen3_vl)):
        listeners = [stepped.submit(prompt, params)[1] for prompt, params in zip(prompts, ways, strict=True)]
        stepped.run()
        answers.append([listener.ids() for listener in listeners])
        if isinstance(stepped, RecordedEngine):
            assert stepped.draws.replays > 3
    assert answers[0] == answers[1]
