"""An engine that is a step ahead of the tokens it knows gives everybody the tokens of one that waits for each."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.model.sampling.sampler import Sampler
from deployments.model.sampling.under_way import UnderWay
from deployments.types import SamplingParams
from tests.model.conftest import FailingPass, SteppedEngine, greedy
from tests.model.recorded_engine import LateReader, RecordedEngine
from tests.support.tiny_families import FAMILIES

FAMILY = FAMILIES["qwen3_vl"]


class NeverTwice:
    """A grammar: no token follows itself."""

    def __init__(self):
        self._last = None

    def allow(self, mask_V):
        mask_V.fill_(True)
        if self._last is not None:
            mask_V[self._last] = False

    def accept(self, token_id):
        assert token_id != self._last
        self._last = token_id


WAYS = (
    greedy(),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.8, top_p=0.9, top_k=30),
    greedy(presence_penalty=2.0),
    greedy(logprobs=1),
    SamplingParams(temperature=1.0, min_tokens=5),
)
"""The last three have to be known step by step, one of them until it is long enough."""


@st.composite
def asked(draw):
    """A prompt's number, its kinds of media, settings, ends, and whether a grammar binds it."""
    params = replace(
        draw(st.sampled_from(WAYS)),
        max_tokens=draw(st.integers(1, 12)),
        n=draw(st.integers(1, 2)),
        seed=draw(st.integers(0, 3)),
    )
    stop = frozenset(range(0, 160, draw(st.sampled_from([5, 11, 161])))) - {0}
    kinds = draw(st.sampled_from([(), (), ("image",)]))
    return draw(st.integers(0, 2)), kinds, params, stop, NeverTwice if draw(st.integers(0, 4)) == 0 else None


@pytest.fixture(scope="module")
def alone(qwen3_vl):
    """What a request is answered by an engine that waits, with nobody else there."""
    stepped, known = SteppedEngine(qwen3_vl, prefix_cache=False), {}

    def answer(request):
        if request not in known:
            listener = submit(stepped, request)[1]
            stepped.run()
            known[request] = told(listener)
        return known[request]

    return answer


def submit(stepped, request):
    number, kinds, params, stop, constraint = request
    prompt = FAMILY.prompt(np.random.default_rng(number), list(kinds))
    return stepped.submit(prompt, params, stop_ids=stop, new_constraint=constraint)


def told(listener):
    """Tokens and ends by choice."""
    assert listener.error is None
    return {choice: (listener.ids(choice), finish) for choice, finish in listener.finish.items()}


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_mix_is_answered_as_by_an_engine_that_waits(data, qwen3_vl, alone):
    """Whatever arrives, ends, is aborted or makes way while tokens are under way."""
    reader = LateReader()
    stepped = RecordedEngine(
        qwen3_vl,
        largest=data.draw(st.sampled_from([0, 0, 2])),
        reader=reader,
        max_running=data.draw(st.integers(2, 4)),
        page_tokens=4,
        kv_cache_gib=data.draw(st.sampled_from([80_000, 200_000])) / 2**30,
        prefill_chunk_tokens=data.draw(st.sampled_from([5, 40])),
        prefix_cache=data.draw(st.booleans()),
    )
    pages = stepped.state.pages_free + stepped.state.pages_cached
    heard = []
    for request in data.draw(st.lists(asked(), min_size=1, max_size=6)):
        sequence, listener = submit(stepped, request)
        stepped.step(data.draw(st.integers(0, 5)))
        aborted = data.draw(st.integers(0, 4)) == 0 and listener.timing is None
        if aborted:
            stepped.engine.abort(sequence)
        heard.append((request, listener, aborted))
    stepped.run()
    for request, listener, aborted in heard:
        wanted = alone(request)
        if not aborted:
            assert told(listener) == wanted
        for choice in listener.tokens:
            assert listener.ids(choice) == wanted[choice][0][: len(listener.ids(choice))]
    assert reader.most_under_way <= 2
    assert stepped.state.pages_free + stepped.state.pages_cached == pages


def test_host_is_a_step_ahead_and_an_end_wastes_one_row(qwen3_vl, alone):
    request = (0, (), greedy(12), frozenset(), None)
    ids = alone(request)[0][0]
    place = next(i for i in range(3, 12) if ids.index(ids[i]) == i)
    ending = (0, (), greedy(12), frozenset({ids[place]}), None)
    reader = LateReader()
    stepped = RecordedEngine(qwen3_vl, reader=reader, max_running=2)
    _, listener = submit(stepped, ending)
    stepped.step()
    assert not listener.ids()  # the first token is under way
    stepped.step()
    assert listener.ids() == ids[:1]
    stepped.run()
    assert told(listener) == {0: (ids[: place + 1], "stop")}
    assert reader.most_under_way == 2
    assert sum(stepped.sink.observed["sluice_batch_size", ()]) == place + 1  # one more than was needed


def test_rows_that_were_drawn_anew_go_on_with_the_right_token(qwen3_vl, alone):
    """As those whose limits reach further than the candidates: the device went on with another token."""

    class Corrected(UnderWay):
        def collect(self):
            sampled = super().collect()
            self.corrected = list(range(0, len(sampled), 2))
            return sampled

    class Wide(Sampler):
        def begin(self, logits_RV, rows):
            found = super().begin(logits_RV, rows)
            if not isinstance(found, UnderWay):
                return found
            wrong = found.tokens_R.clone()
            wrong[::2] = 7
            return Corrected(wrong, found.logits_RV, found.columns_R5, found.values)

    requests = [(n, (), replace(WAYS[2], max_tokens=9, seed=n), frozenset(), None) for n in range(3)]
    requests.append((0, (), greedy(9, presence_penalty=2.0), frozenset(), None))
    stepped = RecordedEngine(qwen3_vl, reader=LateReader(), sampler=Wide, max_running=4)
    listeners = []
    for request in requests:
        listeners.append(submit(stepped, request)[1])
        stepped.step(3)
    stepped.run()
    assert [told(listener) for listener in listeners] == [alone(request) for request in requests]


def test_pass_that_fails_is_computed_apart_with_what_was_under_way(qwen3_vl, alone):
    requests = [(n, (), greedy(9), frozenset(), None) for n in range(3)]
    stepped = RecordedEngine(qwen3_vl, largest=0, reader=LateReader(), max_running=4)
    listeners = [submit(stepped, request)[1] for request in requests]
    stepped.step(4)
    with FailingPass(qwen3_vl, lambda kwargs: kwargs["input_ids"].shape[1] == 3):
        stepped.step(2)
    stepped.run()
    assert [told(listener) for listener in listeners] == [alone(request) for request in requests]
