"""A prompt that begins like an earlier one is prefilled from where they part, and answered as if it had not been."""

import numpy as np
import pytest

from deployments.model.kv_cache.pages import PagePool
from deployments.model.kv_cache.prefix_cache import PrefixCache
from tests.model.conftest import Counting, SteppedEngine, generate, greedy
from tests.support.tiny_families import FAMILIES, Prompt

SHARING = sorted(set(FAMILIES) - {"qwen3_5"})


def _later(prompt, rng, count=6):
    more = rng.integers(10, 140, size=count).astype(np.int32)
    return Prompt(np.concatenate([prompt.token_ids, more]), prompt.tensors, prompt.use_audio_in_video)


def _asked(stepped, prompt, **kwargs):
    """The answer and how many of the prompt's tokens were there."""
    _, listener = stepped.submit(prompt, greedy(), **kwargs)
    stepped.run()
    assert listener.error is None
    return listener.ids(), listener.timing.cached_tokens


@pytest.mark.parametrize("name", SHARING)
def test_later_turns_are_prefilled_from_the_first_new_token_and_answer_as_cold(name, device):
    family = FAMILIES[name]
    model = family.build(device=device)
    rng = np.random.default_rng(2)
    kinds = list(family.media) if family.mixable else [next(iter(family.media))]
    first = family.prompt(rng, kinds)
    second = _later(first, rng)
    other = family.prompt(rng, kinds)
    stepped = SteppedEngine(model, prefill_chunk_tokens=9)
    assert _asked(stepped, first) == (generate(model, first), 0)
    assert _asked(stepped, second) == (generate(model, second), len(first.token_ids))
    answer, cached = _asked(stepped, other)
    assert answer == generate(model, other)
    assert cached < len(other.token_ids) // 2


@pytest.mark.parametrize("kinds", [["image"], ["video"], ["video", "image"]])
def test_media_that_are_covered_are_not_encoded(qwen3_vl, rng, kinds):
    prompt = FAMILIES["qwen3_vl"].prompt(rng, kinds)
    stepped = SteppedEngine(qwen3_vl)
    _asked(stepped, prompt)
    later = _later(prompt, rng)
    with Counting(qwen3_vl) as pictures, Counting(qwen3_vl, "get_video_features") as clips:
        answer, cached = _asked(stepped, later)
    assert pictures.calls == clips.calls == 0
    assert (answer, cached) == (generate(qwen3_vl, later), len(prompt.token_ids))


def test_other_content_under_equal_ids_is_not_taken_for_the_same(qwen3_vl, rng):
    prompt = FAMILIES["qwen3_vl"].prompt(rng, ["image"])
    other = Prompt(prompt.token_ids, {**prompt.tensors, "pixel_values": prompt.tensors["pixel_values"][:, ::-1].copy()})
    stepped = SteppedEngine(qwen3_vl)
    _asked(stepped, prompt)
    answer, cached = _asked(stepped, other)
    assert answer == generate(qwen3_vl, other)
    assert cached < len(prompt.token_ids) - 1


def test_a_second_picture_behind_the_first_one_is_encoded_alone(qwen3_vl, rng):
    family = FAMILIES["qwen3_vl"]
    first, more = family.prompt(rng, ["image"]), family.prompt(rng, ["image"])
    tensors = {name: np.concatenate([first.tensors[name], more.tensors[name]]) for name in first.tensors}
    both = Prompt(np.concatenate([first.token_ids, more.token_ids]), tensors)
    stepped = SteppedEngine(qwen3_vl)
    _asked(stepped, first)
    with Counting(qwen3_vl) as counting:
        _, listener = stepped.submit(both, greedy())
        stepped.run()
        assert counting.calls == 1
    assert listener.ids() == generate(qwen3_vl, both)
    assert listener.timing.cached_tokens >= len(first.token_ids)


def test_salts_share_nothing(qwen3_vl, rng):
    prompt = FAMILIES["qwen3_vl"].prompt(rng, [])
    stepped = SteppedEngine(qwen3_vl)
    cached = [_asked(stepped, prompt, cache_salt=salt)[1] for salt in ("a", "b", "a", "b")]
    assert cached[:2] == [0, 0]
    assert min(cached[2:]) > 0


def test_a_prompt_of_somebody_who_is_still_answered_is_shared(qwen3_vl, rng):
    prompt = FAMILIES["qwen3_vl"].prompt(rng, ["image"])
    stepped = SteppedEngine(qwen3_vl)
    listeners = [stepped.submit(prompt, greedy(30))[1]]
    stepped.step(3)
    used = stepped.state.pages_used
    listeners.append(stepped.submit(prompt, greedy(30))[1])
    stepped.step()
    assert stepped.state.pages_used - used < used
    stepped.run()
    assert [listener.ids() for listener in listeners] == [generate(qwen3_vl, prompt, 30)] * 2


def test_what_is_kept_leaves_when_memory_is_wanted(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl, kv_cache_gib=0.0003)
    answers = []
    for seed in range(12):
        prompt = Prompt(np.random.default_rng(seed).integers(10, 140, size=40).astype(np.int32), {})
        answers.append((_asked(stepped, prompt)[0], generate(qwen3_vl, prompt)))
        state = stepped.state
        assert state.pages_used == 0
    assert state.preemptions == 0
    assert all(mine == plain for mine, plain in answers)


def test_recurrent_families_share_nothing(device):
    family = FAMILIES["qwen3_5"]
    model = family.build(device=device)
    prompt = family.prompt(np.random.default_rng(1), [])
    stepped = SteppedEngine(model)
    assert [_asked(stepped, prompt) for _ in range(2)] == [(generate(model, prompt), 0)] * 2


def test_the_least_recently_used_page_that_nothing_follows_leaves_first():
    pool = PagePool(6)
    cache = PrefixCache(pool, 2)
    contents = [np.arange(4, dtype=np.int64)[:, None] + 10 * i for i in range(3)]
    for content in contents:
        pages = pool.take(2)
        cache.insert(content, pages, "")
        pool.release(pages)
    assert (pool.num_free, cache.num_idle) == (0, 6)
    cache.match(np.append(contents[0], [[99]], axis=0), "")  # the first one is asked for again
    for _ in range(2):
        assert cache.evict()
    found = [cache.match(np.append(content, [[99]], axis=0), "") for content in contents]
    assert [len(match.pages) for match in found] == [2, 0, 2]
