import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.config import AppConfig, PreprocessorConfig
from deployments.errors import BadMedia, BadRequest, StageTimeout
from deployments.observability.metrics import RecordingSink
from deployments.preprocessor.stage import PreprocessStage
from tests.support.preparing import asking, decoded, image, noise, picture_file, video
from tests.support.tiny_processors import FAMILIES, tiny_checkpoint

PICTURE = picture_file(noise(56, 84, 3))
LARGE = picture_file(np.zeros((3000, 3000, 3), np.uint8))
"""Waits for memory."""


def stage(sink: RecordingSink, **settings: float) -> PreprocessStage:
    config = AppConfig(preprocessor=PreprocessorConfig(**settings))  # type: ignore[arg-type]
    return PreprocessStage(tiny_checkpoint(FAMILIES["qwen2_vl"]()), config, sink)


async def test_bytes_handed_on_are_counted() -> None:
    sink = RecordingSink()
    _, tensors = await stage(sink).prepare(60, asking(0), (image(0),), (PICTURE,))
    assert tensors is not None
    assert sink.values["sluice_prepared_bytes", ()] == sum(tensor.nbytes for tensor in tensors.values())
    assert sink.values["sluice_threads_busy", ("preprocess",)] == 0


async def test_tensors_travel_with_the_prompt_where_all_pixels_are_at_the_model() -> None:
    clip = replace(video(0, replace(decoded(range(4), 56, 84), patch_grid=(2, 4, 6))), pixels_at_model=True)
    room = stage(RecordingSink())
    prepared, tensors = await room.prepare(60, asking(0), (clip,), ())
    assert tensors is None
    assert prepared.sizes is not None
    assert prepared.sizes["video_grid_thw"].tolist() == [[2, 4, 6]]
    mixed, tensors = await room.prepare(60, asking(0, 1), (clip, image(1)), (PICTURE,))
    assert mixed.sizes is None
    assert tensors is not None
    assert {"video_grid_thw", "pixel_values"} <= tensors.keys()


async def test_requests_beyond_the_workers_wait_and_are_answered() -> None:
    room = stage(RecordingSink(), workers=2)
    calls = [room.prepare(60, asking(0, "w" * number), (image(0),), (PICTURE,)) for number in range(8)]
    lengths = [len(prepared.token_ids) for prepared, _ in await asyncio.gather(*calls)]
    assert lengths == list(range(lengths[0], lengths[0] + 8))


async def test_errors_pass_unchanged_and_free_the_worker() -> None:
    room = stage(RecordingSink(), workers=1)
    for _ in range(3):
        with pytest.raises(BadMedia):
            await room.prepare(60, asking(0), (image(0),), (PICTURE[:40],))
    room.check_health()
    assert (await room.prepare(60, asking("Hi"), (), ()))[1] is None


@pytest.mark.parametrize(("remaining_s", "timeout_s"), [(1e-9, 60), (60, 1e-9)])
async def test_time_of_the_request_and_of_the_stage_both_hold(remaining_s: float, timeout_s: float) -> None:
    with pytest.raises(StageTimeout, match="preprocess"):
        await stage(RecordingSink(), timeout_s=timeout_s).prepare(remaining_s, asking("Hi"), (), ())


async def test_closed_stage_takes_no_more_work() -> None:
    room = stage(RecordingSink())
    room.close()
    with pytest.raises(RuntimeError):
        await room.prepare(60, asking("Hi"), (), ())


async def test_large_pictures_are_decoded_one_after_the_other_and_small_ones_go_past_them() -> None:
    room = stage(RecordingSink(), workers=2, max_decode_bytes=1)
    sizes = {"first": (6000, 6000), "second": (6000, 6000), "small": (56, 84)}
    files = {name: picture_file(np.zeros((*size, 3), np.uint8)) for name, size in sizes.items()}
    asked = {name: asyncio.create_task(room.prepare(60, asking(0), (image(0),), (files[name],))) for name in files}
    ended: list[str] = []
    for name, task in asked.items():
        task.add_done_callback(lambda _, name=name: ended.append(name))
    await asyncio.gather(*asked.values())
    assert ended == ["small", "first", "second"]


async def test_a_large_picture_waits_for_memory_no_longer_than_its_time() -> None:
    room = stage(RecordingSink(), workers=2, max_decode_bytes=1)
    file = picture_file(np.zeros((6000, 6000, 3), np.uint8))
    first = asyncio.create_task(room.prepare(60, asking(0), (image(0),), (file,)))
    second = asyncio.create_task(room.prepare(0.1, asking(0), (image(0),), (file,)))
    with pytest.raises(StageTimeout):
        await second
    assert (await first)[1] is not None


class Files(tuple[NDArray[np.uint8], ...]):
    """Of one request; `decoding` is called on the thread that is about to decode them, their headers being known."""

    decoding: Callable[[], object]
    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        if self.looks > 1:
            self.decoding()
        return super().__getitem__(index)


async def test_a_cancelled_pictures_memory_is_the_next_ones_once_its_thread_has_ended() -> None:
    room = stage(RecordingSink(), workers=2, max_decode_bytes=1)
    begun, release, decoded = threading.Event(), threading.Event(), []

    def hold() -> None:
        begun.set()
        release.wait(10)

    first, second = Files((LARGE,)), Files((LARGE,))
    first.decoding, second.decoding = hold, lambda: decoded.append("second")
    leaving = asyncio.create_task(room.prepare(60, asking(0), (image(0),), first))
    await asyncio.to_thread(begun.wait, 10)
    leaving.cancel()
    await asyncio.wait({leaving})
    waiting = asyncio.create_task(room.prepare(60, asking(0), (image(0),), second))
    await asyncio.sleep(0)
    await room.prepare(60, asking(0), (image(0),), (PICTURE,))  # behind it on the only thread that is left
    assert decoded == []
    release.set()
    await waiting
    assert decoded == ["second"]


class AwaitedProcessor:
    """A family's processor as one that asks a service: its call is a coroutine, all else is as it was."""

    gate: asyncio.Event | None = None
    refuses = False

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.inside: list[int] = []
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.processor, name)

    def __deepcopy__(self, memo: object) -> "AwaitedProcessor":
        return self

    async def __call__(self, **arguments: Any) -> Any:
        self.inside.append(threading.get_ident())
        self.most = max(self.most, len(self.inside))
        try:
            await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
            if self.refuses:
                raise ValueError("no such picture")
            return self.processor(**arguments)
        finally:
            self.inside.pop()


def awaiting_stage(**settings: float) -> tuple[PreprocessStage, AwaitedProcessor]:
    checkpoint = tiny_checkpoint(FAMILIES["qwen2_vl"]())
    processor = AwaitedProcessor(checkpoint.processor)
    config = AppConfig(preprocessor=PreprocessorConfig(**settings))  # type: ignore[arg-type]
    return PreprocessStage(replace(checkpoint, processor=processor), config, RecordingSink()), processor


async def test_a_coroutine_processor_gives_what_the_same_one_gives_on_a_thread() -> None:
    on_thread = stage(RecordingSink(), uint8_handoff=False)
    on_loop, _ = awaiting_stage()
    expected, expected_tensors = await on_thread.prepare(60, asking(0, "Hi"), (image(0),), (PICTURE,))
    prepared, tensors = await on_loop.prepare(60, asking(0, "Hi"), (image(0),), (PICTURE,))
    assert prepared.token_ids.tolist() == expected.token_ids.tolist()
    assert tensors is not None
    assert expected_tensors is not None
    assert tensors.keys() == expected_tensors.keys()
    assert all(np.array_equal(tensors[name], expected_tensors[name]) for name in tensors)


async def test_coroutine_processors_run_on_the_stages_loop_at_most_so_many_as_there_are_workers() -> None:
    room, processor = awaiting_stage(workers=2)
    processor.gate = asyncio.Event()
    calls = [asyncio.create_task(room.prepare(60, asking(0), (image(0),), (PICTURE,))) for _ in range(6)]
    async with asyncio.timeout(30):
        while len(processor.inside) < 2:
            await asyncio.sleep(0.005)
    assert processor.inside == [threading.get_ident()] * 2
    assert (await room.prepare(60, asking("Hi"), (), ()))[1] is None
    processor.gate.set()
    await asyncio.gather(*calls)
    assert processor.most == 2


async def test_a_coroutine_processor_out_of_time_or_refusing_frees_its_place() -> None:
    room, processor = awaiting_stage(workers=1)
    processor.gate = asyncio.Event()
    with pytest.raises(StageTimeout, match="preprocess"):
        await room.prepare(0.5, asking(0), (image(0),), (PICTURE,))
    processor.gate.set()
    processor.refuses = True
    with pytest.raises(BadRequest, match="no such picture"):
        await room.prepare(60, asking(0), (image(0),), (PICTURE,))
    processor.refuses = False
    assert (await room.prepare(60, asking(0), (image(0),), (PICTURE,)))[1] is not None
    assert processor.inside == []


async def test_the_end_of_the_stage_ends_coroutine_processors() -> None:
    room, processor = awaiting_stage(workers=1)
    processor.gate = asyncio.Event()
    calls = [asyncio.create_task(room.prepare(60, asking(0), (image(0),), (PICTURE,))) for _ in range(3)]
    async with asyncio.timeout(30):
        while not processor.inside:
            await asyncio.sleep(0.005)
    room.close()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended)
    assert processor.inside == []
