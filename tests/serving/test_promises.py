"""Payloads that are handed on before they are there, on a real cluster: they come, or are told to be lost."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import numpy as np
import pytest
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.decoder.deployment import VideoDecoder
from deployments.decoder.groups import GroupRule
from deployments.decoder.reader import VideoReader
from deployments.errors import BadMedia, MediaLost
from deployments.serving.client import Stage, promised, put
from deployments.serving.replica import stage_method, stage_value
from deployments.stage_calls import TensorRef
from deployments.stages import VideoDecoding
from deployments.types import FrameSampling, PatchRule, ResizeRule, VideoTask
from tests.support.application import Cluster
from tests.support.media_files import make_video

OPTIONS: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0}, "health_check_period_s": 1}
SIZE = 300_000


@serve.deployment(max_ongoing_requests=20, **OPTIONS)
class Maker:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.cancelled = 0

    @stage_method
    async def begin(
        self, remaining_s: float, value: int, refs: tuple[TensorRef], data: Any
    ) -> AsyncGenerator[Any, None]:
        yield {"value": value, "given": int(data.sum())}
        await self._opened()
        yield _filled(value)

    @stage_value
    async def make(self, remaining_s: float, value: int, refs: tuple[TensorRef], data: Any) -> Any:
        await self._opened()
        if value < 0:
            raise BadMedia("it is broken")
        return _filled(value)

    @stage_method
    async def open(self, remaining_s: float) -> AsyncGenerator[Any, None]:
        self.gate.set()
        yield self.cancelled

    async def _opened(self) -> None:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@serve.deployment(max_ongoing_requests=20, **OPTIONS)
class Taker:
    @stage_method
    async def total(self, remaining_s: float, later: list[TensorRef], *payloads: Any) -> AsyncGenerator[Any, None]:
        yield "began"
        async for value in promised(later):
            yield int(value["patches"].sum())
        yield len(later)


@serve.deployment(**OPTIONS)
class Root:
    def __init__(self, **handles: "DeploymentHandle[Any]") -> None:
        pass


def _filled(value: int) -> dict[str, Any]:
    return {"patches": np.full(SIZE, value, np.uint8)}


@pytest.fixture
def stages(ray_cluster: Cluster) -> Iterator[tuple[Stage, Stage]]:
    serve.run(Root.bind(maker=Maker.bind(), taker=Taker.bind()), name="promises", route_prefix=None)
    yield (
        Stage(serve.get_deployment_handle("Maker", "promises"), "maker"),
        Stage(serve.get_deployment_handle("Taker", "promises"), "taker"),
    )
    serve.delete("promises")


async def test_promises_are_kept_told_to_be_lost_and_cancelled(stages: tuple[Stage, Stage]) -> None:
    maker, taker = stages
    data, deadline = put(np.ones(SIZE, np.uint8)), Deadline(60, "t")
    begun = await maker.begin("begin", deadline, 1, payloads=[data])
    assert begun.meta == {"value": 1, "given": SIZE}
    promises = [await maker.promise("make", deadline, value, payloads=begun.given) for value in (2, 3)]
    broken = await maker.promise("make", deadline, -1, payloads=begun.given)
    given_up = await maker.promise("make", deadline, 9, payloads=begun.given)
    given_up.cancel()

    answers = taker.stream("total", deadline, promises=[promise.payload for promise in promises])
    assert await anext(answers) == "began"
    failing = taker.stream("total", deadline, promises=[broken.payload])
    assert await anext(failing) == "began"
    lost = taker.stream("total", deadline, promises=[given_up.payload])
    with pytest.raises(MediaLost):
        [value async for value in lost]

    assert (await maker.call("open", deadline)).meta == 1
    first = await begun.payload()
    assert [value async for value in answers] == [2 * SIZE, 3 * SIZE, 0]
    with pytest.raises(MediaLost):
        [value async for value in failing]
    again = taker.stream("total", deadline, promises=[first, promises[0].payload])
    assert [value async for value in again] == ["began", SIZE, 2 * SIZE, 0]


async def test_groups_of_a_clip_are_its_patches_whichever_replicas_make_them(ray_cluster: Cluster) -> None:
    config = AppConfig()
    decoders = VideoDecoder.options(num_replicas=2, **OPTIONS)
    bound = decoders.bind(config, fetcher=Maker.bind(), part_megapixels=0.01, groups=GroupRule(0.01, 4))
    serve.run(Root.bind(decoder=bound), name="groups", route_prefix=None)
    door = VideoDecoding(Stage(serve.get_deployment_handle("VideoDecoder", "groups"), "video_decode"))
    file = np.frombuffer(make_video(240, gop=6, width=640, height=384), np.uint8)
    resize = ResizeRule("clip", factor=32, temporal_factor=2, min_pixels=32 * 32, max_pixels=320 * 192 * 60)
    task = VideoTask("clip", FrameSampling(20, None, 64), resize, None, PatchRule(patch=16, merge=2, temporal=2))
    deadline = Deadline(60, "t")
    for _ in range(2):
        begun = await door.decode_early(deadline, task, put(file), key="one clip")
        assert len(begun.meta.later) == 3
        asked = [door.decode_group(deadline, task, group, *begun.given) for group in begun.meta.later]
        later = [promise.payload for promise in await asyncio.gather(*asked)]
        values = [value async for value in promised([await begun.payload(), *later])]
        plain = VideoReader(config.decoder).read(task, file, Deadline(60, "decode"))
        patches = np.concatenate([value["patches"] for value in values])
        np.testing.assert_array_equal(patches, plain.payload["patches"])
        assert begun.meta.patch_grid == plain.meta.patch_grid
    serve.delete("groups")
