"""Is one long video decoded sooner by several decoders, and do many at once lose nothing by it?

    python -m benchmarks parts [--quick]

The decode stage alone, each of its replicas on a node of its own of a simulated cluster, asked through the door by
which the ingress asks it. First a minute of 1080p, really decoded, by two replicas: this machine should have as many
cores. Then by replicas that *wait* for each packet, as if cores of their own decoded it: of a clip whose frames are
tiny, for which parts are allowed in the same proportion. The frames of both ways are compared bit for bit.
"""

import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from benchmarks.cluster.nodes import start_cluster
from benchmarks.kit.clips import ClipSpec, clip
from benchmarks.kit.harness import Benchmark
from deployments.config import AppConfig, DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder import pyav_backend
from deployments.decoder.deployment import VideoDecoder
from deployments.decoder.parts import PART_MEGAPIXELS
from deployments.serving.client import Stage, put, taken
from deployments.serving.content_router import found_again
from deployments.serving.replica import stage_method
from deployments.stage_calls import TensorRef
from deployments.stages import VideoDecoding
from deployments.types import FrameSampling, PatchRule, ResizeRule, StageName, VideoTask

QUESTION = "Is one long video decoded sooner by several decoders, and do many at once lose nothing by it?"
FRAMES, GOP, SECONDS = 128, 30, 60
REAL, TINY = ClipSpec(1080, SECONDS, GOP), ClipSpec(72, SECONDS, GOP)
PACKET_PACE_S = 0.002
WHOLE, PARTS = "whole", "in parts"
"""Labels by which the decoders are told what to do with a video."""
CROWD = 8
"""Videos asked for at once."""
SAMPLING = FrameSampling(FRAMES, None, FRAMES)
RESIZE = ResizeRule("clip", 32, 2, 128 * 32 * 32, 16_384 * 28 * 28)
_STORE_BYTES = 400 * 2**20
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class _Case:
    title: str
    clip: ClipSpec
    replicas: int
    packet_pace_s: float

    @property
    def part_megapixels(self) -> float:
        return PART_MEGAPIXELS * (self.clip.height / REAL.height) ** 2


CASES = (
    _Case(f"{REAL.name}, {FRAMES} frames, really decoded", REAL, 2, 0.0),
    _Case(f"Decoders that wait {PACKET_PACE_S * 1e3:g} ms a packet", TINY, 4, PACKET_PACE_S),
)


@dataclass(slots=True)
class _Run:
    one_s: dict[str, list[float]]
    """Of one video at a time, by label."""
    crowd_s: dict[str, float]
    """Until the last of `CROWD` videos is decoded."""
    same: bool
    """Whether both ways give the same frames."""

    def gain(self) -> float:
        return statistics.median(self.one_s[WHOLE]) / statistics.median(self.one_s[PARTS])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("parts", QUESTION, argv)
    runs: list[_Run] = []
    with _nodes(max(case.replicas for case in CASES)):
        for case in bench.progress(CASES, "cases"):
            runs.append(asyncio.run(_measured(case, clip(case.clip, bench.seed), 3 if bench.quick else 9)))
            serve.delete("parts")
    for case, run in zip(CASES, runs, strict=True):
        rows = [
            [label, statistics.median(run.one_s[label]), run.crowd_s[label], "yes" if run.same else "NO"]
            for label in (WHOLE, PARTS)
        ]
        note = f"{case.replicas} replicas, each of one thread; alone {run.gain():.2f} times as fast in parts."
        bench.table(case.title, ["a video is decoded", "one s", f"{CROWD} at once s", "same frames"], rows, note)
    return bench.finish(_answer(runs), {"runs": [asdict(run) for run in runs]})


@serve.deployment(name="VideoDecoder")
class MeasuredDecoder(VideoDecoder.func_or_class):  # type: ignore[name-defined,misc]
    """Decodes in parts or not, as a video's label says, and may take its time for each packet."""

    def __init__(
        self, config: AppConfig, fetcher: "DeploymentHandle[Any]", part_megapixels: float, packet_pace_s: float
    ) -> None:
        super().__init__(config, fetcher, part_megapixels)
        work = pyav_backend.decode_run

        def decode_run(video: Any, run: Any, *more: Any) -> Iterator[Any]:
            time.sleep(len(run) * packet_pace_s)
            return work(video, run, *more)

        pyav_backend.decode_run = decode_run

    @stage_method
    async def decode(
        self, remaining_s: float, task: VideoTask, file: tuple[TensorRef], data: NDArray[np.uint8]
    ) -> AsyncGenerator[Any, None]:
        if task.label == WHOLE:
            read = await self._stage.decode(remaining_s, task, data)
            yield read.meta
            yield read.payload
        else:
            async for value in super().decode(remaining_s, task, file, data):
                yield value


@serve.deployment(ray_actor_options={"num_cpus": 0})
class _Nobody:
    """In place of a fetcher, whom nobody asks here."""


@serve.deployment(ray_actor_options={"num_cpus": 0})
class _Root:
    def __init__(self, decoder: "DeploymentHandle[Any]") -> None:
        pass


@contextmanager
def _nodes(count: int) -> Iterator[None]:
    folder = Path(tempfile.mkdtemp(prefix="pa-", dir="/tmp"))  # sockets below it need a short path
    cluster = start_cluster(folder, num_cpus=1, object_store_bytes=_STORE_BYTES)
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1, resources={"media": 1}, object_store_memory=_STORE_BYTES, wait=False)
        ray.init(cluster.address, namespace="serve", log_to_driver=False)
        serve.start(proxy_location="Disabled")
        yield
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


async def _measured(case: _Case, data: NDArray[np.uint8], rounds: int) -> _Run:
    door, ref = _deployed(case), put(data)
    run, frames = _Run({WHOLE: [], PARTS: []}, {}, same=True), dict[str, NDArray[np.uint8]]()
    await asyncio.gather(*(_decoded(door, ref, PARTS, number) for number in range(4)))  # opens the decoders' own doors
    for number in range(rounds):
        for label, seconds in run.one_s.items():
            began = time.perf_counter()
            payload = await _decoded(door, ref, label, number)
            seconds.append(time.perf_counter() - began)
            (frames[label],) = (values.copy() for values in (await taken(payload)).values())
    run.same = np.array_equal(frames[WHOLE], frames[PARTS])
    for label in run.one_s:
        began = time.perf_counter()
        await asyncio.gather(*(_decoded(door, ref, label, number) for number in range(CROWD)))
        run.crowd_s[label] = time.perf_counter() - began
    return run


def _deployed(case: _Case) -> VideoDecoding:
    config = AppConfig(decoder=DecoderConfig(workers=1, max_parts=case.replicas, timeout_s=_TIMEOUT_S))
    options = {"max_ongoing_requests": 6, "ray_actor_options": {"num_cpus": 0, "resources": {"media": 1}}}
    decoders = found_again(MeasuredDecoder, StageName.VIDEO_DECODE, config)
    decoders = decoders.options(num_replicas=case.replicas, **options)
    root = _Root.bind(decoders.bind(config, _Nobody.bind(), case.part_megapixels, case.packet_pace_s))
    serve.run(root, name="parts", route_prefix=None)
    return VideoDecoding(Stage(serve.get_deployment_handle("VideoDecoder", "parts"), StageName.VIDEO_DECODE))


async def _decoded(door: VideoDecoding, ref: TensorRef, label: str, number: int) -> TensorRef:
    task = VideoTask(label, SAMPLING, RESIZE, None, PatchRule(16, 2, 2))
    result = await door.decode(Deadline(_TIMEOUT_S, "decode"), task, ref, key=f"clip {number}")
    assert result.payload is not None
    return result.payload


def _answer(runs: list[_Run]) -> str:
    parts = []
    for case, run in zip(CASES, runs, strict=True):
        crowd = run.crowd_s[WHOLE] / run.crowd_s[PARTS]
        what = "a minute of 1080p" if case.clip == REAL else "one that takes no cores here"
        parts.append(f"{what} {run.gain():.2f} times as fast by {case.replicas}, {CROWD} at once {crowd:.2f} times")
    return f"{'; '.join(parts)}; the frames are {'the same' if all(run.same for run in runs) else 'NOT the same'}."


if __name__ == "__main__":
    main()
