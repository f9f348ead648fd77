"""A long video over the replicas of a real deployment: one answer, whatever becomes of the others."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from ray import serve
from ray._private import internal_api
from ray.serve.handle import DeploymentHandle

from deployments.config import AppConfig, DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.deployment import VideoDecoder
from deployments.decoder.reader import VideoReader
from deployments.serving.client import Stage, put, taken
from deployments.serving.content_router import found_again
from deployments.stage_calls import StageResult
from deployments.stages import VideoDecoding
from deployments.types import DecodedVideo, FrameSampling, StageName, VideoTask
from tests.support.application import Cluster
from tests.support.media_files import make_video

REPLICAS = 3
OPTIONS: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0}, "health_check_period_s": 1}
CONFIG = AppConfig(decoder=DecoderConfig(workers=1))
TASK = VideoTask("clip", FrameSampling(60, None, 64), None, None)


@serve.deployment(**OPTIONS)
class Nobody:
    pass


@serve.deployment(**OPTIONS)
class Root:
    def __init__(self, decoder: "DeploymentHandle[Any]") -> None:
        pass


@pytest.fixture(scope="module")
def decoder(ray_cluster: Cluster) -> Iterator[VideoDecoding]:
    decoders = found_again(VideoDecoder, StageName.VIDEO_DECODE, CONFIG).options(num_replicas=REPLICAS, **OPTIONS)
    application = Root.bind(decoders.bind(CONFIG, fetcher=Nobody.bind(), part_megapixels=0.01))
    serve.run(application, name="parts", route_prefix=None)
    yield VideoDecoding(Stage(serve.get_deployment_handle("VideoDecoder", "parts"), "video_decode"))
    serve.delete("parts")


@pytest.fixture(scope="module")
def data() -> bytes:
    return make_video(240, gop=6, width=640, height=384)


async def decoded(decoder: VideoDecoding, data: bytes) -> StageResult[DecodedVideo]:
    async with asyncio.timeout(60):
        return await decoder.decode(Deadline(60, "request"), TASK, put(np.frombuffer(data, np.uint8)), key="one clip")


async def assert_whole(result: StageResult[DecodedVideo], data: bytes) -> None:
    plain = VideoReader(CONFIG.decoder).read(TASK, np.frombuffer(data, np.uint8), Deadline(60, "decode"))
    assert result.meta.indices == plain.meta.indices
    assert result.payload is not None
    np.testing.assert_array_equal((await taken(result.payload))["frames_THWC"], plain.payload["frames_THWC"])


def replicas() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "ServeReplica:parts:VideoDecoder" in title(p)]


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def cpu_s() -> dict[int, float]:
    return {process.pid: process.cpu_times().user for process in replicas()}


def used_bytes(cluster: Cluster) -> int:
    state = internal_api.get_state_from_address(cluster.address)
    return int(internal_api.get_memory_info_reply(state).store_stats.object_store_bytes_used)


async def test_all_replicas_decode_the_same_video_each_a_part(decoder: VideoDecoding, data: bytes) -> None:
    await assert_whole(await decoded(decoder, data), data)
    before = cpu_s()
    for _ in range(4):
        await decoded(decoder, data)
    worked = [seconds - before[pid] for pid, seconds in cpu_s().items()]
    assert len(worked) == REPLICAS
    assert min(worked) > 0.02


async def test_nothing_is_left_in_shared_memory(decoder: VideoDecoding, data: bytes, ray_cluster: Cluster) -> None:
    before = used_bytes(ray_cluster)
    results = await asyncio.gather(*(decoded(decoder, data) for _ in range(4)))
    assert used_bytes(ray_cluster) > before
    results.clear()
    async with asyncio.timeout(20):
        while used_bytes(ray_cluster) > before:
            await asyncio.sleep(0.1)


async def test_a_video_that_is_given_up_leaves_all_places_free(decoder: VideoDecoding, data: bytes) -> None:
    for after_s in (0.05, 0.1, 0.2):
        given_up = asyncio.create_task(decoded(decoder, data))
        await asyncio.sleep(after_s)
        given_up.cancel()
        await asyncio.wait([given_up])
    await assert_whole(await decoded(decoder, data), data)
    before = cpu_s()
    for _ in range(4):
        await decoded(decoder, data)
    assert min(seconds - before[pid] for pid, seconds in cpu_s().items()) > 0.02


async def test_a_replica_that_dies_with_a_part_loses_nothing(decoder: VideoDecoding, data: bytes) -> None:
    before = cpu_s()
    await decoded(decoder, data)
    at_home = max((seconds - before[pid], pid) for pid, seconds in cpu_s().items())[1]
    decoding = asyncio.create_task(decoded(decoder, data))
    await asyncio.sleep(0.02)
    for process in replicas():
        if process.pid != at_home:
            os.kill(process.pid, 9)
    await assert_whole(await decoding, data)
