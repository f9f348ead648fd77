"""Seen media are not encoded again, whoever brought them first; what is kept is bounded and no request's."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import PixelsWanted
from deployments.model.multimodal.digests import Digests
from deployments.model.multimodal.encoder_cache import EncoderCache
from deployments.model.multimodal.items import Item
from deployments.model.multimodal.request_media import EncodedRows, MediaMemory
from deployments.observability.metrics import RecordingSink
from deployments.types import MediaKind, MediaMark, PixelNorm
from tests.model.conftest import Counting, SteppedEngine, generate, greedy
from tests.support.tiny_families import FAMILIES, Prompt

CASES = [
    ("qwen2_5_vl", ["image", "video"]),
    ("qwen3_vl", ["video", "image"]),
    ("qwen3_5", ["video"]),
    ("gemma3", ["image"]),
    ("gemma4", ["video", "audio"]),
    ("internvl", ["image"]),
    ("llava_onevision", ["image"]),
    ("qwen2_5_omni", ["audio", "image"]),
    ("qwen2_5_omni", ["sounding"]),
    ("qwen3_omni_moe", ["sounding"]),
]
"""Families and the media of a conversation's first turn."""


def _later(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """The conversation's next turn: the same media, more text."""
    more = rng.integers(10, 140, size=6).astype(np.int32)
    return Prompt(np.concatenate([prompt.token_ids, more]), prompt.tensors, prompt.use_audio_in_video)


def _twice(prompt: Prompt) -> Prompt:
    """The same media twice in one prompt."""
    tensors = {name: np.concatenate([array, array]) for name, array in prompt.tensors.items()}
    return Prompt(np.concatenate([prompt.token_ids, prompt.token_ids]), tensors, prompt.use_audio_in_video)


def _counted(stepped: SteppedEngine, what: str) -> float:
    return stepped.sink.values.get((f"sluice_cache_{what}", ("encode",)), 0)


def _cached_bytes(stepped: SteppedEngine) -> int:
    return stepped.state.encoder_cache_bytes


@pytest.mark.parametrize(("name", "kinds"), CASES)
def test_a_later_turn_encodes_nothing_and_answers_as_generate(name, kinds, device):
    family = FAMILIES[name]
    model = family.build(device=device)
    rng = np.random.default_rng(2)
    first, other = family.prompt(rng, kinds), family.prompt(rng, kinds)
    turns = [first, _later(first, rng), other, _later(_later(first, rng), rng)]
    stepped = SteppedEngine(model, reuse_cache_mib=1.0, prefix_cache=False, prefill_chunk_tokens=9)
    answers, misses = [], []
    for prompt in turns:
        _, listener = stepped.submit(prompt, greedy())
        stepped.run()
        answers.append(listener.ids())
        misses.append(_counted(stepped, "misses"))
    assert answers == [generate(model, prompt) for prompt in turns]
    assert misses[0] == misses[1] < misses[2] == misses[3]
    assert _counted(stepped, "hits") >= 2 * misses[0]


@pytest.mark.parametrize(("name", "kinds"), CASES)
def test_eviction_changes_no_answer(name, kinds, device):
    """The cache has room for one request's outputs at most: every other request throws out what was there."""
    family = FAMILIES[name]
    model = family.build(device=device)
    rng = np.random.default_rng(3)
    prompts = [family.prompt(rng, kinds) for _ in range(3)]
    stepped = SteppedEngine(model, reuse_cache_mib=0.002, prefix_cache=False, max_running=2)
    asked = [prompts[i] for i in (0, 1, 0, 2, 2, 1, 0)]
    listeners = [stepped.submit(prompt, greedy())[1] for prompt in asked]
    while stepped.engine.busy:
        stepped.step()
        assert _cached_bytes(stepped) <= 0.002 * 2**20
    assert [listener.ids() for listener in listeners] == [generate(model, prompt) for prompt in asked]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "gemma3", "internvl"])
def test_the_same_picture_twice_in_a_prompt_is_encoded_once(name, device):
    family = FAMILIES[name]
    model = family.build(device=device)
    prompt = _twice(family.prompt(np.random.default_rng(4), ["image"]))
    stepped = SteppedEngine(model, reuse_cache_mib=1.0, prefix_cache=False)
    _, listener = stepped.submit(prompt, greedy())
    stepped.run()
    assert (_counted(stepped, "misses"), _counted(stepped, "hits")) == (1, 1)
    assert listener.ids() == generate(model, prompt)


def test_the_same_picture_of_two_requests_at_once_is_encoded_once(qwen3_vl, rng):
    prompt = FAMILIES["qwen3_vl"].prompt(rng, ["image"])
    stepped = SteppedEngine(qwen3_vl, reuse_cache_mib=1.0, prefix_cache=False)
    listeners = [stepped.submit(prompt, greedy())[1] for _ in range(2)]
    stepped.run()
    assert _counted(stepped, "misses") == 1
    assert listeners[0].ids() == listeners[1].ids() == generate(qwen3_vl, prompt)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_outputs_outlive_an_abort_of_the_request_that_brought_them(qwen3_vl, rng, steps):
    prompt = FAMILIES["qwen3_vl"].prompt(rng, ["video", "image"])
    stepped = SteppedEngine(qwen3_vl, reuse_cache_mib=1.0, prefix_cache=False, prefill_chunk_tokens=4)
    sequence, _ = stepped.submit(prompt, greedy())
    stepped.step(steps)
    stepped.engine.abort(sequence)
    stepped.run()
    assert (stepped.state.media_host_bytes, stepped.state.media_device_bytes) == (0, 0)
    with Counting(qwen3_vl) as pictures, Counting(qwen3_vl, "get_video_features") as clips:
        _, listener = stepped.submit(prompt, greedy())
        stepped.run()
    assert pictures.calls == clips.calls == 0
    assert listener.ids() == generate(qwen3_vl, prompt)


def test_an_abort_between_its_parts_leaves_only_whole_items_behind(qwen3_vl, rng):
    family = FAMILIES["qwen3_vl"]
    prompt = family.prompt(rng, ["video", "video"])
    stepped = SteppedEngine(qwen3_vl, creeping=True, reuse_cache_mib=1.0, prefix_cache=False)
    _, running = stepped.submit(family.prompt(rng, []), greedy(400))
    stepped.step(2)
    sequence, _ = stepped.submit(prompt, greedy())
    while not _counted(stepped, "misses"):
        stepped.step()
    stepped.engine.abort(sequence)
    _, listener = stepped.submit(prompt, greedy())
    while listener.timing is None:
        heard = len(running.ids())
        stepped.step()
        assert len(running.ids()) == heard + 1
    assert _counted(stepped, "hits") >= 1
    assert listener.ids() == generate(qwen3_vl, prompt)


def test_kept_outputs_cost_nothing_of_a_step_beside_running_answers(qwen3_vl, rng):
    """One item at a time would be encoded here; kept ones all come in one step, however many there are."""
    family = FAMILIES["qwen3_vl"]
    prompt = family.prompt(rng, ["video", "video", "image"])
    stepped = SteppedEngine(qwen3_vl, creeping=True, reuse_cache_mib=1.0, prefix_cache=False)
    stepped.submit(prompt, greedy())
    stepped.run()
    stepped.submit(family.prompt(rng, []), greedy(400))
    stepped.step(2)
    hits, seen = _counted(stepped, "hits"), set()
    _, listener = stepped.submit(prompt, greedy())
    while listener.timing is None:
        stepped.step()
        seen.add(_counted(stepped, "hits") - hits)
    assert max(seen) > 2
    assert len(seen - {0}) <= 2  # in one step, or in two where one looked while the last digest was being made
    assert listener.ids() == generate(qwen3_vl, prompt)


def test_a_running_answer_does_not_wait_for_a_digest(qwen3_vl, rng):
    family = FAMILIES["qwen3_vl"]
    go_on = threading.Event()
    stepped = SteppedEngine(qwen3_vl, creeping=True, reuse_cache_mib=1.0, prefix_cache=False)
    _, running = stepped.submit(family.prompt(rng, []), greedy(400))
    stepped.step(2)
    prompt = family.prompt(rng, ["image"])
    digest = Item.digest

    def slow(item):
        go_on.wait()
        return digest(item)

    Item.digest = slow
    try:
        _, listener = stepped.submit(prompt, greedy())
        for _ in range(5):
            heard = len(running.ids())
            stepped.step()
            assert len(running.ids()) == heard + 1
        assert not listener.ids()
    finally:
        go_on.set()
        Item.digest = digest
    while listener.timing is None:
        stepped.step()
    assert listener.ids() == generate(qwen3_vl, prompt)


def test_what_decodes_holds_no_media_while_the_cache_does(qwen3_vl, rng):
    stepped = SteppedEngine(qwen3_vl, reuse_cache_mib=1.0, prefix_cache=False)
    for _ in range(2):
        stepped.submit(FAMILIES["qwen3_vl"].prompt(rng, ["video", "image"]), greedy(30))
    stepped.step(4)
    state = stepped.state
    assert state.running == 2
    assert (state.media_host_bytes, state.media_device_bytes, state.media_reserved_bytes) == (0, 0, 0)
    assert _cached_bytes(stepped) > 0
    stepped.run()
    assert stepped.sink.values["sluice_cache_bytes", ("encode",)] == _cached_bytes(stepped)


def test_nothing_is_kept_or_digested_unless_there_is_a_size(qwen3_vl, rng):
    prompt = FAMILIES["qwen3_vl"].prompt(rng, ["image"])
    stepped = SteppedEngine(qwen3_vl, prefix_cache=False, reuse_cache_mib=0)
    with Counting(qwen3_vl) as counting:
        for _ in range(2):
            stepped.submit(prompt, greedy())
            stepped.run()
    assert counting.calls == 2
    assert _cached_bytes(stepped) == _counted(stepped, "misses") == 0


def test_wrong_media_fail_alone_and_are_not_kept(qwen3_vl, rng):
    family = FAMILIES["qwen3_vl"]
    good, bad = family.prompt(rng, ["image"]), family.prompt(rng, ["image"])
    bad.tensors["image_grid_thw"] = bad.tensors["image_grid_thw"] * 2
    stepped = SteppedEngine(qwen3_vl, reuse_cache_mib=1.0, prefix_cache=False)
    listeners = [stepped.submit(prompt, greedy())[1] for prompt in (bad, good, bad, good)]
    stepped.run()
    assert all(listener.error is not None for listener in listeners[::2])
    assert listeners[1].ids() == listeners[3].ids() == generate(qwen3_vl, good)


def test_the_least_recently_used_leaves_first_and_the_bytes_are_known():
    memory = MediaMemory(0)
    cache = EncoderCache(2048, memory, RecordingSink())
    items = [Item(MediaKind.IMAGE, {"pixel_values": torch.full((1, 2), float(i))}) for i in range(4)]
    rows = [EncodedRows(torch.full((64, 4), float(i))) for i in range(3)]  # 1024 bytes each
    digests = Digests()
    digests.expect(items)
    cache.put(items[0], rows[0])
    cache.put(items[1], rows[1])
    assert cache.get(items[0]) is not None
    cache.put(items[2], rows[2])
    cache.put(items[3], EncodedRows(torch.zeros(1024, 4)))  # larger than the whole cache
    assert [cache.holds(item, wait=True) for item in items] == [True, False, True, False]
    assert torch.equal(cache.get(items[0]).rows_ND, rows[0].rows_ND)
    assert memory.cached_bytes == 2048
    digests.close()


def _marked(prompt: Prompt, name: str) -> dict[str, object]:
    """As the preprocessor would name the media of `prompt`."""
    grid = prompt.tensors["video_grid_thw"]
    return {"media": tuple(MediaMark(MediaKind.VIDEO, f"clip {i}", f"{name} {i}") for i in range(len(grid)))}


def test_a_named_clip_is_known_without_its_pixels_and_another_name_is_another_clip(qwen3_vl, rng):
    """The pixels of the second turn are others: whoever looked at them would notice."""
    prompt = FAMILIES["qwen3_vl"].prompt(rng, ["video"])
    blank = {**prompt.tensors, "pixel_values_videos": np.zeros_like(prompt.tensors["pixel_values_videos"])}
    unseen = Prompt(prompt.token_ids, blank, prompt.use_audio_in_video)
    for settings in ({"prefix_cache": False}, {"reuse_cache_mib": 0}):
        stepped = SteppedEngine(qwen3_vl, **settings)
        heard = []
        for asked, name in ((prompt, "one"), (unseen, "one"), (unseen, "two")):
            _, listener = stepped.submit(asked, greedy(), **_marked(asked, name))
            stepped.run()
            heard.append(listener)
        assert [listener.ids() for listener in heard] == [generate(qwen3_vl, p) for p in (prompt, prompt, unseen)]
        assert [listener.timing.encoded for listener in heard] == [{"clip 0"}, set(), {"clip 0"}]


def test_a_clip_that_is_only_named_is_answered_where_it_is_known_and_asked_for_where_it_is_not(qwen3_vl, rng):
    prompt = FAMILIES["qwen3_vl"].prompt(rng, ["video"])
    absent = np.broadcast_to(np.zeros((), np.float32), prompt.tensors["pixel_values_videos"].shape)
    named = Prompt(prompt.token_ids, {**prompt.tensors, "pixel_values_videos": absent}, prompt.use_audio_in_video)
    for settings in ({"prefix_cache": False}, {"reuse_cache_mib": 0}):
        stepped = SteppedEngine(qwen3_vl, max_running=1, **settings)
        heard = []
        for asked in (named, prompt, named, _later(named, rng)):
            said = {"clips_absent": asked is not prompt, **_marked(asked, "one")}
            _, listener = stepped.submit(asked, greedy(), **said)
            stepped.run()
            heard.append(listener)
        assert isinstance(heard[0].error, PixelsWanted)
        assert [listener.error for listener in heard[1:]] == [None, None, None]
        assert heard[1].ids() == heard[2].ids() == generate(qwen3_vl, prompt)
        assert heard[3].timing.encoded == set()
        stepped.submit(prompt, greedy(50), reuse=False)  # whoever has to ask again does not wait for its turn before
        stepped.step()
        _, unnamed = stepped.submit(named, greedy(), clips_absent=True)
        stepped.step()
        assert isinstance(unnamed.error, PixelsWanted)
        stepped.run()
        assert (stepped.state.media_host_bytes, stepped.state.media_device_bytes) == (0, 0)


def test_requests_that_want_no_cache_use_and_leave_nothing(qwen3_vl, rng):
    prompt = FAMILIES["qwen3_vl"].prompt(rng, ["image"])
    expected = generate(qwen3_vl, prompt)
    stepped = SteppedEngine(qwen3_vl)
    with Counting(qwen3_vl) as counting:
        for _ in range(2):
            _, listener = stepped.submit(prompt, greedy(), reuse=False)
            stepped.run()
            assert listener.ids() == expected
            assert listener.timing.cached_tokens == 0
    assert counting.calls == 2
    assert _cached_bytes(stepped) == stepped.state.pages_cached == 0


def test_clients_of_unequal_salts_share_no_encoder_outputs(qwen3_vl, rng):
    prompt = FAMILIES["qwen3_vl"].prompt(rng, ["image"])
    stepped = SteppedEngine(qwen3_vl)
    for salt in ("one", "two", "one"):
        stepped.submit(prompt, greedy(), cache_salt=salt)
        stepped.run()
    assert _counted(stepped, "misses") == 2


@given(st.data())
def test_whatever_an_item_is_made_of_changes_its_digest(data):
    pixels = np.arange(24, dtype=np.uint8)
    facts = {
        "kind": st.sampled_from([MediaKind.IMAGE, MediaKind.VIDEO]),
        "shape": st.sampled_from([(4, 6), (6, 4), (2, 12)]),
        "dtype": st.sampled_from([torch.uint8, torch.float32]),
        "norm": st.sampled_from([None, PixelNorm(0.5, (0.0,), (1.0,), "NCHW"), PixelNorm(0.5, (0.1,), (1.0,), "NCHW")]),
        "grid": st.sampled_from([(1, 2, 2), (1, 4, 1)]),
        "name": st.sampled_from(["", "a", "b"]),
        "salt": st.sampled_from(["", "a"]),
        "pixel": st.sampled_from([0, 1]),
    }

    def item(said):
        tensor = torch.from_numpy(pixels + np.uint8(said["pixel"])).reshape(said["shape"]).to(said["dtype"])
        tensors = {"pixel_values": tensor, "grid_thw": torch.tensor([said["grid"]])}
        return Item(said["kind"], tensors, norm=said["norm"], main="pixel_values", name=said["name"], salt=said["salt"])

    first, second = ({name: data.draw(values) for name, values in facts.items()} for _ in "12")
    compared = [name for name in facts if name != "pixel" or not first["name"]]  # a name stands for the pixels
    same = all(first[name] == second[name] for name in compared)
    assert (item(first).digest() == item(second).digest()) == same
