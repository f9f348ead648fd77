"""Clips whose frames come while their requests are worked on: the same answers, and nobody else waits for them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.core.deadline import Deadline
from deployments.errors import InternalError, MediaLost, StageTimeout, WorkCancelled
from deployments.model.arriving import Arriving
from deployments.model.families.known import known
from deployments.model.multimodal.arrivals import Arrivals
from deployments.types import MediaKind, MediaMark
from tests.model.conftest import SteppedEngine, generate, greedy
from tests.support.tiny_families import FAMILIES, Prompt

PIXELS = "pixel_values_videos"
APART = sorted(name for name, family in FAMILIES.items() if known(name).quirk.frames_apart and "video" in family.media)
QWEN3 = FAMILIES["qwen3_vl"]
MARK = (MediaMark(MediaKind.VIDEO, "clip", "a" * 64),)


class Clip:
    """A prompt's pixels on their way, cut behind these of its frames."""

    def __init__(self, prompt: Prompt, cuts: list[int]) -> None:
        pixels = prompt.tensors[PIXELS]
        grid = prompt.tensors.get("video_grid_thw")
        sizes = [1] * len(pixels) if grid is None else [int(h * w) for t, h, w in grid for _ in range(t)]
        edges = np.concatenate([[0], np.cumsum(sizes)])
        self.frames = len(sizes)
        groups = [pixels[edges[a] : edges[b]] for a, b in zip([0, *cuts], [*cuts, len(sizes)], strict=True)]
        self.arrivals = Arrivals(len(pixels), groups[0])
        self.left = groups[1:]
        self.prompt = replace(prompt, tensors={**prompt.tensors, PIXELS: self.arrivals.array})

    def come(self) -> None:
        self.arrivals.add(self.left.pop(0))


def submit(stepped: SteppedEngine, clip: Clip, max_tokens: int = 8, **kwargs: Any) -> Any:
    return stepped.submit(clip.prompt, greedy(max_tokens), arrivals=clip.arrivals, **kwargs)


def clip_of(rng: np.random.Generator, kinds: list[str], cuts: list[int]) -> tuple[Prompt, Clip]:
    prompt = QWEN3.prompt(rng, kinds)
    return prompt, Clip(prompt, cuts)


@pytest.fixture(scope="module", params=APART)
def family_and_model(request, device):
    family = FAMILIES[request.param]
    return family, family.build(device=device)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_answers_do_not_depend_on_when_frames_come(family_and_model, data):
    family, model = family_and_model
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    kinds = ["image"] if family.mixable and data.draw(st.booleans(), "a picture before it") else []
    prompts = [family.prompt(rng, [*kinds, "video"]), family.prompt(rng, ["video", "video"])]
    clips = []
    for prompt in prompts:
        frames = Clip(prompt, []).frames
        cuts = data.draw(st.lists(st.integers(1, frames - 1), unique=True, max_size=4).map(sorted), "cuts")
        clips.append(Clip(prompt, cuts))
    stepped = SteppedEngine(
        model, prefill_chunk_tokens=data.draw(st.sampled_from([3, 64])), creeping=data.draw(st.booleans(), "creeping")
    )
    running = stepped.submit(family.prompt(rng, []), greedy(12))[1]
    listeners = [submit(stepped, clip)[1] for clip in clips]
    while any(clip.left for clip in clips):
        stepped.step(data.draw(st.integers(0, 4), "steps"))
        data.draw(st.sampled_from([clip for clip in clips if clip.left]), "whose").come()
    stepped.run()
    assert [listener.error for listener in (running, *listeners)] == [None, None, None]
    assert [listener.ids() for listener in listeners] == [generate(model, prompt) for prompt in prompts]
    assert (stepped.state.media_host_bytes, stepped.state.media_device_bytes) == (0, 0)
    assert stepped.state.media_reserved_bytes == 0


def test_what_has_come_is_encoded_and_prefilled_before_the_rest_comes(qwen3_vl, rng):
    prompt, clip = clip_of(rng, ["video"], [1])
    stepped = SteppedEngine(qwen3_vl)
    sequence, listener = submit(stepped, clip)
    stepped.step(5)
    place = np.flatnonzero(prompt.token_ids == qwen3_vl.config.video_token_id)
    grid = prompt.tensors["video_grid_thw"][0]
    assert sequence.num_prefilled > place[len(place) // int(grid[0]) - 1]
    assert not listener.ids()
    clip.come()
    stepped.run()
    assert listener.ids() == generate(qwen3_vl, prompt)


def test_others_are_answered_while_a_clip_is_on_its_way(qwen3_vl, rng):
    prompt, clip = clip_of(rng, ["image", "video"], [1])
    other = QWEN3.prompt(rng, ["video", "image"])
    stepped = SteppedEngine(qwen3_vl)
    _, listener = submit(stepped, clip)
    stepped.step(3)
    _, heard = stepped.submit(other, greedy())
    stepped.step(20)
    assert heard.ids() == generate(qwen3_vl, other)
    assert not listener.ids()
    clip.come()
    stepped.run()
    assert listener.ids() == generate(qwen3_vl, prompt)


def test_a_clip_that_makes_way_goes_on_with_what_has_come_meanwhile(qwen3_vl, rng):
    prompt, clip = clip_of(rng, ["video"], [1])
    stepped = SteppedEngine(qwen3_vl)
    sequence, listener = submit(stepped, clip)
    stepped.step(3)
    scheduler = stepped.engine._scheduler
    done = sequence.num_prefilled
    assert done
    scheduler.preempt(scheduler.running[0])
    clip.come()
    stepped.run()
    assert scheduler.num_preemptions == 1
    assert listener.ids() == generate(qwen3_vl, prompt)


@pytest.mark.parametrize("how", ["aborted", "expired"])
def test_a_request_can_end_while_its_clip_is_on_its_way(qwen3_vl, rng, how):
    _, clip = clip_of(rng, ["video"], [1])
    stepped = SteppedEngine(qwen3_vl)
    sequence, listener = submit(stepped, clip, deadline=Deadline(120.0 if how == "aborted" else 0.1, "model"))
    stepped.step(3)
    if how == "aborted":
        stepped.engine.abort(sequence)
    while listener.error is None:
        stepped.step()
    assert isinstance(listener.error, WorkCancelled if how == "aborted" else StageTimeout)
    state = stepped.state
    assert (state.running, state.media_host_bytes, state.media_device_bytes, state.media_reserved_bytes) == (0,) * 4
    clip.come()  # too late, and nobody minds
    assert not stepped.engine.busy


def test_a_clip_that_was_seen_is_not_waited_for(qwen3_vl, rng):
    """Neither where its prompt begins like an earlier one, nor where only its frames are known."""
    prompt = QWEN3.prompt(rng, ["video"])
    stepped = SteppedEngine(qwen3_vl)
    stepped.submit(prompt, greedy(), media=MARK)
    stepped.run()
    _, again = submit(stepped, Clip(prompt, [1]), media=MARK)
    changed = replace(prompt, token_ids=np.concatenate([[77], prompt.token_ids]).astype(np.int32))
    _, elsewhere = submit(stepped, Clip(changed, [1]), media=MARK)
    stepped.run()
    assert again.ids() == generate(qwen3_vl, prompt)
    assert elsewhere.ids() == generate(qwen3_vl, changed)


def test_an_engine_that_waits_for_media_alone_rests_and_is_woken(qwen3_vl, rng):
    prompt, clip = clip_of(rng, ["video"], [1])
    stepped = SteppedEngine(qwen3_vl)
    _, listener = submit(stepped, clip)
    stepped.step(5)
    assert stepped.engine._scheduler.is_stalled
    stepped.engine.start()
    clip.come()
    stepped.engine.wake()
    stepped.engine.close(30.0)
    assert listener.ids() == generate(qwen3_vl, prompt)


def test_groups_that_are_not_what_was_told_are_refused():
    arrivals = Arrivals(4, np.zeros((2, 3), np.uint8))
    with pytest.raises(InternalError, match="fewer"):
        arrivals.check_complete()
    for wrong in (np.zeros((3, 3), np.uint8), np.zeros((2, 4), np.uint8), np.zeros((2, 3), np.float32)):
        with pytest.raises(InternalError, match="has not the size"):
            arrivals.add(wrong)
    arrivals.add(np.ones((2, 3), np.uint8))
    arrivals.check_complete()
    assert torch.from_numpy(arrivals.array).sum() == 6


async def groups(*sizes: int, error: Exception | None = None, forever: bool = False) -> AsyncIterator[dict[str, Any]]:
    for number, size in enumerate(sizes):
        yield {"patches": np.full((size, 3), number, np.uint8)}
    if error is not None:
        raise error
    if forever:
        await asyncio.Event().wait()


async def bring(later: AsyncIterator[dict[str, Any]], seconds: float = 30.0) -> tuple[Arriving, list[Any]]:
    """Brings six rows; what is heard of it until all have come, or something has failed."""
    tensors = {"video_grid_thw": np.array([[3, 1, 2]])}
    arriving = await Arriving.begin(tensors, later, Deadline(seconds, "model"))
    assert tensors["pixel_values_videos"] is arriving.arrivals.array
    heard: list[Any] = []
    arriving.start(lambda: heard.append(arriving.arrivals.rows), heard.append)
    async with asyncio.timeout(30):
        while arriving.took_s is None and not any(isinstance(one, Exception) for one in heard):
            await asyncio.sleep(0.001)
    return arriving, heard


async def test_what_follows_a_call_is_put_in_its_place():
    arriving, heard = await bring(groups(2, 3, 1))
    assert heard == [5, 6]
    assert arriving.arrivals.array[:, 0].tolist() == [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(("sizes", "error"), [((2, 3), None), ((2, 5), None), ((2,), MediaLost("it did not come"))])
async def test_what_does_not_follow_as_told_is_told(sizes, error):
    _, heard = await bring(groups(*sizes, error=error))
    assert isinstance(heard[-1], InternalError if error is None else MediaLost)


async def test_nobody_waits_for_what_follows_beyond_a_requests_time():
    with pytest.raises(StageTimeout):
        await bring(groups(forever=True), 0.05)
    arriving = await Arriving.begin(
        {"video_grid_thw": np.array([[3, 1, 2]])}, groups(2, forever=True), Deadline(30, "model")
    )
    with pytest.raises(StageTimeout):
        await arriving.all(Deadline(0.05, "model"))
