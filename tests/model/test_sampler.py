"""Each choice depends on its own request alone, and on what its settings allow."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.core.deadline import Deadline
from deployments.model.sampling.sampler import Sampler
from deployments.model.sequence import EngineRequest, Sequence
from deployments.types import SamplingParams
from tests.model.conftest import RecordingListener, SteppedEngine, generate, greedy
from tests.support.tiny_families import Prompt

VOCAB = 20


def _row(params, generated=(), prompt=(1, 2), stop_ids=frozenset(), constraint=None):
    request = EngineRequest(
        np.array(prompt, dtype=np.int32), params, Deadline(60.0, "model"), stop_ids, new_constraint=constraint
    )
    sequence = Sequence(request, RecordingListener(), 100)
    choice = sequence.choices[0]
    choice.token_ids = list(generated)
    return sequence, choice


def _sample(logits, rows):
    sampled = Sampler(torch.device("cpu")).sample(torch.as_tensor(logits, dtype=torch.float32), rows)
    return [s.token for s in sampled]


def _draws(params, logits, count=400):
    rows = []
    for seed in range(count):
        sequence, choice = _row(params)
        choice.seed = seed
        rows.append((sequence, choice))
    return Counter(token.token_id for token in _sample(np.tile(logits, (count, 1)), rows))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    place=st.integers(0, 50),
    neighbours=st.integers(0, 5),
    position=st.integers(0, 5),
    top_p=st.floats(0.1, 1.0),
    top_k=st.integers(0, VOCAB),
)
def test_seeded_choice_is_the_same_in_any_batch(seed, place, neighbours, position, top_p, top_k):
    rng = np.random.default_rng(seed % 1000)
    params = SamplingParams(seed=seed, temperature=0.8, top_p=top_p, top_k=top_k)
    logits = rng.normal(size=VOCAB)
    alone = _sample(logits[None], [_row(params, range(place))])
    others = [_row(SamplingParams(seed=n, top_k=3, presence_penalty=1.0), [4]) for n in range(neighbours)]
    position = min(position, neighbours)
    rows = [*others[:position], _row(params, range(place)), *others[position:]]
    batch = rng.normal(size=(neighbours + 1, VOCAB))
    batch[position] = logits
    assert _sample(batch, rows)[position] == alone[0]


def test_draws_follow_the_distribution():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    counts = _draws(SamplingParams(), np.log(probabilities), count=4000)
    for token, probability in enumerate(probabilities):
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_top_k_top_p_and_min_p_keep_the_likely_tokens():
    logits = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15]))
    assert set(_draws(SamplingParams(top_k=2), logits)) == {1, 3}
    assert set(_draws(SamplingParams(top_p=0.65), logits)) == {1, 3}
    assert set(_draws(SamplingParams(top_p=0.71), logits)) == {1, 3, 4}
    assert set(_draws(SamplingParams(min_p=0.3), logits)) == {1, 3, 4}
    assert set(_draws(SamplingParams(top_p=0.01), logits)) == {1}


def test_temperature_zero_is_the_most_likely_token():
    assert _sample([[0.0, 2.0, 1.0]], [_row(SamplingParams(temperature=0.0))])[0].token_id == 1


def test_bias_bans_and_wins():
    logits = [[3.0, 2.0, 1.0]]
    assert _sample(logits, [_row(greedy(logit_bias=((0, -100.0),)))])[0].token_id == 1
    assert _sample(logits, [_row(greedy(logit_bias=((2, 100.0),)))])[0].token_id == 2


def test_constraint_decides_what_may_come():
    class Even:
        def allow(self, mask_V):
            mask_V[::2] = True

        def accept(self, token_id):
            assert token_id % 2 == 0

    rows = [_row(greedy(), constraint=Even), _row(greedy())]
    assert [token.token_id for token in _sample([[0.0, 5.0, 1.0]] * 2, rows)] == [2, 1]


def test_penalties_count_generated_tokens():
    sampler, logits = Sampler(torch.device("cpu")), torch.tensor([[2.0, 1.9, 0.0]])
    for params in (greedy(presence_penalty=0.5), greedy(frequency_penalty=0.2), greedy(repetition_penalty=1.5)):
        sequence, choice = _row(params, prompt=(2,))
        ids = []
        for _ in range(2):
            ids.append(sampler.sample(logits, [(sequence, choice)])[0].token.token_id)
            choice.token_ids.append(ids[-1])
        assert ids == [0, 1], params


def test_repetition_penalty_equals_generate(qwen3_vl):
    prompt = Prompt(np.arange(20, 30, dtype=np.int32), {})
    stepped = SteppedEngine(qwen3_vl)
    _, listener = stepped.submit(prompt, greedy(12, repetition_penalty=1.7))
    stepped.run()
    assert listener.ids() == generate(qwen3_vl, prompt, 12, repetition_penalty=1.7)


def test_logprobs_are_those_of_the_model(qwen3_vl):
    logits = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, 3.0]])
    rows = [_row(SamplingParams(temperature=0.0, logprobs=2)), _row(SamplingParams(temperature=0.0, logprobs=0))]
    first, second = _sample(logits, rows)
    expected = logits.log_softmax(-1)
    assert first.logprob == pytest.approx(float(expected[0, 1]), abs=1e-6)
    assert [token_id for token_id, _ in first.top] == [1, 2]
    assert [value for _, value in first.top] == pytest.approx(expected[0, [1, 2]].tolist(), abs=1e-6)
    assert second.logprob == pytest.approx(float(expected[1, 2]), abs=1e-6)
    assert second.top == ()


def test_logits_that_are_not_numbers_give_no_token():
    tokens = _sample([[0.0, float("nan"), 1.0], [0.0, 1.0, 2.0]], [_row(greedy()), _row(SamplingParams(top_k=1))])
    assert tokens[0] is None
    assert tokens[1].token_id == 2


@pytest.mark.parametrize("temperature", [1e-38, 1e-45, 5e-324])
def test_a_temperature_near_zero_takes_the_most_likely_token(temperature):
    logits = np.linspace(-1e4, 1e4, VOCAB)
    assert _draws(SamplingParams(temperature=temperature, top_p=0.9), logits, 20) == {VOCAB - 1: 20}


def test_min_tokens_bans_the_end_while_anything_else_may_come():
    params = SamplingParams(temperature=0.0, min_tokens=3)
    logits = np.arange(VOCAB, dtype=float)[None]
    assert _sample(logits, [_row(params, stop_ids=frozenset({VOCAB - 1}))])[0].token_id == VOCAB - 2
    everything = frozenset(range(VOCAB))
    assert _sample(logits, [_row(params, stop_ids=everything)])[0].token_id == VOCAB - 1
