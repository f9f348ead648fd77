"""The encode stage without Ray: what it hands on, how it shares its towers, what it refuses, what it lets go of."""

import asyncio

import numpy as np
import pytest
import torch

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.errors import (
    BadRequest,
    InternalError,
    Overloaded,
    ReplicaLost,
    StageTimeout,
    StageUnavailable,
    TooLarge,
)
from deployments.model.encoder.deployment import Encoder
from deployments.model.encoder.loop import EncoderLoop
from deployments.model.encoder.stage import EncodeStage
from deployments.model.families.family import Family
from deployments.model.families.parts import Part, cut
from deployments.model.multimodal.encoded import add_outputs, arrays_of, tensor_of
from deployments.model.multimodal.items import split_items
from deployments.model.multimodal.request_media import EncodedRows, MediaMemory
from deployments.observability.metrics import RecordingSink
from deployments.serving.replica import StageFailure
from deployments.types import EncodeTask, MediaKind, MediaMark
from tests.model.conftest import Counting, SteppedEngine, generate, greedy
from tests.support.tiny_families import FAMILIES, Prompt

TINY = FAMILIES["qwen3_vl"]


@pytest.fixture(scope="module")
def whole():
    return TINY.build()


@pytest.fixture(scope="module")
def towers():
    model = TINY.build()
    cut(model, Part.TOWERS)
    return Family(model)


def opened(family, *, started=True, step_values=2**22, **encoder):
    engine = {name: encoder.pop(name) for name in ("reuse_cache_mib", "encoder_budget_mib") if name in encoder}
    sink = RecordingSink()
    stage = EncodeStage(family, AppConfig.model_validate({"encoder": encoder, "engine": engine}), sink, step_values)
    if started:
        stage.loop.start()
    return stage, sink


@pytest.fixture
def stage(towers):
    made, _ = opened(towers)
    yield made
    made.loop.close()


def task(*kinds, digests=None, reuse=True, **fields):
    marks = tuple(
        MediaMark(MediaKind(kind), f"item {i}", digests[i] if digests else "") for i, kind in enumerate(kinds)
    )
    return EncodeTask(None, marks, "", reuse, **fields)


async def test_language_model_answers_from_what_is_handed_on(whole, stage):
    prompt = TINY.prompt(np.random.default_rng(3), ["image", "video"])
    told, arrays = await stage.encode(60.0, task("image", "video"), [dict(prompt.tensors)])
    assert not [name for name in arrays if name.startswith("pixel_")]
    assert told.encoded == {"item 0", "item 1"}
    assert told.size_bytes == sum(array.nbytes for name, array in arrays.items() if "_embeds" in name)
    stepped = SteppedEngine(whole)
    with Counting(whole) as pictures, Counting(whole, "get_video_features") as videos:
        _, listener = stepped.submit(Prompt(prompt.token_ids, arrays), greedy())
        stepped.run()
    assert listener.ids() == generate(whole, prompt)
    assert pictures.calls == videos.calls == 0
    assert stepped.state.media_host_bytes == stepped.state.media_device_bytes == 0


async def test_clips_of_a_request_are_encoded_apart_and_put_together(whole, stage):
    """Each from its own patches, as the decoder delivers them."""
    prompt = TINY.prompt(np.random.default_rng(5), ["video", "video", "video"])
    sizes = {name: array for name, array in prompt.tensors.items() if not name.startswith("pixel_")}
    edges = np.cumsum(sizes["video_grid_thw"].prod(1))[:-1]
    clips = [{"patches": rows} for rows in np.split(prompt.tensors["pixel_values_videos"], edges)]
    asked = [(0, clips[:2]), (2, clips[2:])]
    tasks = [task("video", "video", "video", sizes=sizes, first_clip=first, num_clips=len(own)) for first, own in asked]
    answers = [await stage.encode(60.0, one, own) for one, (_, own) in zip(tasks, asked, strict=True)]
    assert [told.encoded for told, _ in answers] == [{"item 0", "item 1"}, {"item 2"}]
    assert not any(clip for clip in clips)
    tensors = dict(sizes)
    add_outputs(tensors, [arrays for _, arrays in answers])
    stepped = SteppedEngine(whole)
    _, listener = stepped.submit(Prompt(prompt.token_ids, tensors), greedy())
    stepped.run()
    assert listener.ids() == generate(whole, prompt)


async def test_known_media_are_not_encoded_again(towers):
    stage, sink = opened(towers, reuse_cache_mib=1)
    prompt = TINY.prompt(np.random.default_rng(4), ["image"])
    with Counting(towers.model) as counting:
        first, rows = await stage.encode(60.0, task("image", digests=["a"]), [dict(prompt.tensors)])
        second, same = await stage.encode(60.0, task("image", digests=["a"]), [dict(prompt.tensors)])
        await stage.encode(60.0, task("image", digests=["a"], reuse=False), [dict(prompt.tensors)])
    stage.loop.close()
    assert (first.encoded, second.encoded) == ({"item 0"}, frozenset())
    np.testing.assert_array_equal(rows["image_embeds"], same["image_embeds"])
    assert counting.calls == 2
    assert sink.values["sluice_cache_hits", ("encode",)] == 1
    assert sink.values["sluice_cache_bytes", ("encode",)] > 0


def test_prompts_are_found_again_by_the_names_of_media_encoded_elsewhere(whole):
    """Also where their outputs are others' bits, as those of another card may be."""
    prompt = TINY.prompt(np.random.default_rng(6), ["image"])
    rows = int((prompt.token_ids == whole.config.image_token_id).sum())
    stepped = SteppedEngine(whole, page_tokens=1, reuse_cache_mib=0)
    marks = (MediaMark(MediaKind.IMAGE, "item 0", "a"),)
    found = []
    for number in range(2):
        arrays = {"image_embeds": np.full((rows, 32), 0.1 + number / 1e9), "image_embeds_rows": np.array([rows])}
        arrays["image_deepstack_embeds"] = np.zeros((2, rows, 32))
        given = {"image_grid_thw": prompt.tensors["image_grid_thw"]} | arrays
        _, listener = stepped.submit(Prompt(prompt.token_ids, given), greedy(), media=marks)
        stepped.run()
        found.append(listener.timing.cached_tokens)
    assert found == [0, len(prompt.token_ids) - 1]


def test_low_precision_travels_bit_by_bit():
    rows = torch.randn(4, 3).to(torch.bfloat16)
    arrays = arrays_of({MediaKind.IMAGE: [EncodedRows(rows)]})
    assert torch.equal(tensor_of(torch.from_numpy(arrays["image_embeds"])), rows)


def picture(side=4, seed=0):
    pixels = np.random.default_rng(seed).normal(size=(side * side, 96)).astype(np.float32)
    return {"pixel_values": pixels, "image_grid_thw": np.array([[1, side, side]])}


async def test_requests_share_the_towers_step_by_step(towers):
    """A picture that comes beside a clip of many frames does not wait for all of them."""
    stage, _ = opened(towers, started=False, step_values=1, reuse_cache_mib=0)  # one item a step
    clip = {"pixel_values_videos": np.zeros((16 * 8, 96), np.float32), "video_grid_thw": np.array([[8, 4, 4]])}
    working = asyncio.ensure_future(stage.encode(60.0, task("video"), [clip]))
    beside = asyncio.ensure_future(stage.encode(60.0, task("image"), [picture()]))
    await asyncio.sleep(0.1)
    stage.loop.step()
    stage.loop.step()
    await asyncio.wait_for(beside, 5)
    assert not working.done()
    while stage.loop.busy:
        stage.loop.step()
    told, arrays = await working
    assert arrays["video_embeds_rows"].tolist() == [4] * 8
    assert told.encode_s > 0


async def test_bad_media_fail_alone_and_are_named(towers):
    stage, _ = opened(towers, started=False)
    wrong = {**picture(), "pixel_values": np.zeros((16, 7), np.float32)}
    failing = asyncio.ensure_future(stage.encode(60.0, task("image"), [wrong]))
    beside = asyncio.ensure_future(stage.encode(60.0, task("image"), [picture()]))
    await asyncio.sleep(0.1)
    stage.loop.step()
    with pytest.raises(InternalError) as failed:
        await failing
    assert failed.value.param == "item 0"
    told, _ = await beside
    assert told.encoded == {"item 0"}
    stage.check_health()


async def test_what_is_too_large_or_no_kind_of_the_models_is_refused_and_so_is_more_than_may_wait(towers):
    stage, _ = opened(towers, started=False, encoder_budget_mib=0.01, max_waiting=1)
    with pytest.raises(TooLarge, match="MiB are allowed"):
        await stage.encode(60.0, task("image"), [picture(side=16)])
    with pytest.raises(BadRequest, match="no audio"):
        await stage.encode(60.0, task("audio"), [{"input_features": np.zeros((1, 4, 4), np.float32)}])
    waiting = asyncio.ensure_future(stage.encode(60.0, task("image"), [picture()]))
    await asyncio.sleep(0.1)
    with pytest.raises(Overloaded):
        await stage.encode(60.0, task("image"), [picture()])
    stage.loop.step()
    await waiting


async def test_time_that_runs_out_and_callers_that_leave_take_their_work_along(towers):
    stage, sink = opened(towers, started=False)
    late = asyncio.ensure_future(stage.encode(0.05, task("image"), [picture()]))
    left = asyncio.ensure_future(stage.encode(60.0, task("image"), [picture()]))
    await asyncio.sleep(0.2)
    left.cancel()
    with pytest.raises(StageTimeout) as timeout:
        await late
    assert timeout.value.stage == "encode"
    with pytest.raises(asyncio.CancelledError):
        await left
    with Counting(towers.model) as counting:
        stage.loop.step()
    assert counting.calls == 0
    assert not stage.loop.busy
    assert sink.values["sluice_multimodal_bytes", ("host",)] == 0


def test_load_is_the_values_that_wait_at_the_pace_of_late(towers):
    stage, sink = opened(towers, started=False, step_values=1, target_backlog_s=0.001)
    loop: EncoderLoop = stage.loop
    (item,) = split_items(MediaKind.IMAGE, _tensors(picture()), "pixel_values")
    loop.submit([item], Deadline(60.0, "encode"))
    assert loop.load is None
    loop.step()
    assert loop.load is not None
    assert (loop.load.in_hand, loop.load.of_next > 0) == (0, True)
    items = split_items(MediaKind.IMAGE, _tensors(picture(seed=1)), "pixel_values")
    loop.submit(items * 2, Deadline(60.0, "encode"))
    loop.step()
    assert loop.load.in_hand > 0
    assert sink.values["sluice_waiting_media_values", ()] == items[0].values
    assert sink.values["sluice_encodes_waiting", ()] == 1


def test_closing_lets_work_end_and_takes_no_more(towers):
    stage, _ = opened(towers)
    items = split_items(MediaKind.IMAGE, _tensors(picture()), "pixel_values")
    work = stage.loop.submit(items, Deadline(60.0, "encode"))
    stage.close()
    assert work.done.result() is None
    with pytest.raises(StageUnavailable):
        stage.loop.submit(items, Deadline(60.0, "encode"))


class LostTowers:
    """On a device that can't be used any more."""

    device = torch.device("cpu")

    def cost(self, item, *, wait):
        return item.values

    def encode(self, items):
        raise RuntimeError("CUDA error: device-side assert triggered")

    def close(self):
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the loop's, as it should
def test_a_lost_device_ends_the_replica_and_sends_its_requests_elsewhere():
    loop = EncoderLoop(LostTowers(), MediaMemory(2**30), RecordingSink(), max_waiting=9, target_backlog_s=1.0)
    items = split_items(MediaKind.IMAGE, _tensors(picture()), "pixel_values")
    loop.check_health()
    work = loop.submit(items, Deadline(60.0, "encode"))
    loop.start()
    error = work.done.result(60)
    assert isinstance(error, StageUnavailable)
    assert error.retry_after_s
    loop._thread.join()
    with pytest.raises(ReplicaLost, match="the encoder has failed"):
        loop.check_health()
    with pytest.raises(StageUnavailable, match="is being replaced"):
        loop.submit(items, Deadline(60.0, "encode"))
    loop.close()


async def test_replica_says_what_it_did_then_gives_the_outputs_and_errors_come_as_values():
    """The deployment's own part, without Ray, with the built-in checkpoint."""
    replica = Encoder.func_or_class(AppConfig.model_validate({"encoder": {}}))
    pixels = {"pixel_values": np.zeros((16, 3 * 2 * 14 * 14), np.float32), "image_grid_thw": np.array([[1, 4, 4]])}
    told, arrays = [value async for value in replica.encode(60.0, task("image"), pixels)]
    assert (told.encoded, len(arrays["image_embeds"])) == ({"item 0"}, 4)
    (failure,) = [value async for value in replica.encode(60.0, task("image"), {**pixels, "pixel_values": np.ones(3)})]
    assert isinstance(failure, StageFailure)
    await replica.check_health()
    replica._open.close()


def _tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
