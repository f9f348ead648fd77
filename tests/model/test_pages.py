"""Keys and values are taken page by page, shared, moved away for older requests and brought back, and never lost."""

import numpy as np
import pytest

from deployments.errors import ContextTooLong
from deployments.model.kv_cache.pages import PagePool, PageTable
from deployments.types import SamplingParams
from tests.model.conftest import SteppedEngine, generate, greedy
from tests.support.tiny_families import FAMILIES, Prompt


def _text(length, seed=0):
    return Prompt(np.random.default_rng(seed).integers(10, 140, size=length).astype(np.int32), {})


def _small(model, tokens, **config):
    """An engine with room for about so many tokens in all."""
    larger, smaller = (SteppedEngine(model, page_tokens=4, kv_cache_gib=gib, **config) for gib in (0.02, 0.01))
    page_gib = 0.01 / (larger.state.pages_free - smaller.state.pages_free)
    other_gib = 0.02 - page_gib * larger.state.pages_free  # recurrent states, and the page that is nobody's
    return SteppedEngine(model, page_tokens=4, kv_cache_gib=other_gib + page_gib * (tokens // 4 + 0.5), **config)


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "gemma4", "qwen2_5_omni", "qwen3_5"])
@pytest.mark.parametrize("prefix_cache", [False, True])
def test_who_makes_way_answers_as_if_it_had_not(name, prefix_cache, device):
    family = FAMILIES[name]
    model = family.build(device=device)
    rng = np.random.default_rng(3)
    prompts = [family.prompt(rng, kinds) for kinds in ([], list(family.media)[:1], [], list(family.media)[:1])]
    longest = max(len(prompt.token_ids) for prompt in prompts)
    stepped = _small(model, 2 * longest + 30, prefix_cache=prefix_cache, max_running=4)
    listeners = [stepped.submit(prompt, greedy(24))[1] for prompt in prompts]
    stepped.run()
    assert stepped.state.preemptions > 0
    assert stepped.state.pages_used == 0
    assert [listener.ids() for listener in listeners] == [generate(model, prompt, 24) for prompt in prompts]


def test_answers_of_one_prompt_make_way_together(qwen3_vl):
    stepped = _small(qwen3_vl, 72, max_running=6)
    older = stepped.submit(_text(10), greedy(40))[1]
    several = stepped.submit(_text(9, 1), greedy(16, n=3))[1]
    stepped.run()
    assert stepped.state.preemptions > 0
    assert older.ids() == generate(qwen3_vl, _text(10), 40)
    assert [several.ids(choice) for choice in range(3)] == [generate(qwen3_vl, _text(9, 1), 16)] * 3


def test_the_oldest_never_makes_way(qwen3_vl):
    stepped = _small(qwen3_vl, 64, max_running=4)
    listeners = [stepped.submit(_text(8, seed), greedy(40))[1] for seed in range(3)]
    while listeners[0].timing is None:
        heard = len(listeners[0].ids())
        stepped.step()
        assert len(listeners[0].ids()) == heard + 1
    stepped.run()
    assert all(listener.error is None for listener in listeners)


def test_a_request_without_a_limit_takes_no_more_than_it_needs(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl)
    stepped.submit(_text(8), SamplingParams(temperature=0.0))
    stepped.step(3)
    assert stepped.state.pages_used <= 2


def test_answers_share_the_pages_of_their_prompt(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl, prefix_cache=False)
    stepped.submit(_text(80), greedy(20, n=4))
    stepped.step(2)
    assert stepped.state.pages_used == 10 + 4  # of 8 tokens: ten of the prompt, one more each


def test_answers_that_can_not_fit_together_are_refused_with_the_limit(qwen3_vl):
    stepped = _small(qwen3_vl, 64, max_running=6)
    with pytest.raises(ContextTooLong, match="in each of 6 answers"):
        stepped.submit(_text(8), greedy(40, n=6))


def test_new_tables_leave_each_other_room_to_grow():
    pool = PagePool(64)
    tables = [PageTable(4) for _ in range(4)]
    for _ in range(6):
        for table in tables:
            table.extend(pool.take(1, table.pages[-1] if table.pages else None))
    assert all(len(table.slices(0, 24)) == 1 for table in tables)


def test_scattered_pages_are_found_in_their_order():
    table = PageTable(4)
    table.extend([3, 4, 1])
    assert table.slices(2, 11) == [slice(14, 20), slice(4, 7)]
    assert [table.place(token) for token in (0, 7, 8)] == [12, 19, 4]


def test_too_many_pages_are_not_taken_at_all():
    pool = PagePool(3)
    assert pool.take(4) is None
    assert sorted(pool.take(3)) == [0, 1, 2]
    assert pool.num_free == 0
