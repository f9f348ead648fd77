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
from collections.abc import Iterator, Sequence
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
from deployments.stages import TensorRef, VideoDecoding
from deployments.types import FrameSampling, PatchRule, ResizeRule, StageName, VideoTask

QUESTION = "Is one long video decoded sooner by several decoders, and do many at once lose nothing by it?"
FRAMES, GOP, SECONDS = 128, 30, 60
REAL, TINY = ClipSpec(1080, SECONDS, GOP), ClipSpec(72, SECONDS, GOP)
TINY_PART_MEGAPIXELS = PART_MEGAPIXELS * (TINY.height / REAL.height) ** 2
PACKET_PACE_S = 0.002
MOST = 4
CROWD = 8
"""Videos asked for at once."""
TASK = VideoTask(
    "clip",
    FrameSampling(FRAMES, None, FRAMES),
    ResizeRule("clip", 32, 2, 128 * 32 * 32, 16_384 * 28 * 28),
    None,
    PatchRule(16, 2, 2),
)
_STORE_BYTES = 400 * 2**20
_TIMEOUT_S = 300.0


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("parts", QUESTION, argv)
    rounds = 3 if bench.quick else 7
    cases = [_Case("1080p", 2, most, rounds) for most in (1, 2)]
    cases += [_Case("waiting", MOST, most, rounds) for most in (1, 2, MOST)]
    runs: list[_Run] = []
    with _nodes(MOST):
        for case in bench.progress(cases, "cases"):
            data = clip(REAL if case.kind == "1080p" else TINY, bench.seed)
            runs.append(asyncio.run(_measured(case, data)))
            serve.delete("parts")
    _show(bench, runs)
    return bench.finish(_answer(runs), {"runs": [run.figures() for run in runs]})


@dataclass(frozen=True, slots=True)
class _Case:
    kind: str
    replicas: int
    max_parts: int
    rounds: int


@dataclass(frozen=True, slots=True)
class _Run:
    case: _Case
    one_s: list[float]
    crowd_s: float
    """Until the last of `CROWD` videos is decoded."""
    frames: NDArray[np.uint8]

    def figures(self) -> dict[str, Any]:
        return {**asdict(self.case), "one_s": self.one_s, "crowd_s": self.crowd_s}


@serve.deployment(name="VideoDecoder")
class WaitingDecoder(VideoDecoder.func_or_class):  # type: ignore[name-defined,misc]
    """Takes its time for each packet that is decoded."""

    def __init__(self, config: AppConfig, fetcher: "DeploymentHandle[Any]") -> None:
        super().__init__(config, fetcher, part_megapixels=TINY_PART_MEGAPIXELS)
        work = pyav_backend.decode_run

        def decode_run(video: Any, run: Any, *more: Any) -> Iterator[Any]:
            time.sleep(len(run) * PACKET_PACE_S)
            return work(video, run, *more)

        pyav_backend.decode_run = decode_run  # type: ignore[assignment]


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
            cluster.add_node(num_cpus=1, resources={"media": 1}, object_store_memory=_STORE_BYTES)
        ray.init(cluster.address, namespace="serve", log_to_driver=False)
        serve.start(proxy_location="Disabled")
        yield
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


async def _measured(case: _Case, data: NDArray[np.uint8]) -> _Run:
    door = _deployed(case)
    ref = put(data)
    await _decoded(door, ref, 0)  # the first video opens the decoders' own door
    one_s = []
    for number in range(case.rounds):
        began = time.perf_counter()
        payload = await _decoded(door, ref, number)
        one_s.append(time.perf_counter() - began)
    (frames,) = (values.copy() for values in (await taken(payload)).values())
    began = time.perf_counter()
    await asyncio.gather(*(_decoded(door, ref, number) for number in range(CROWD)))
    return _Run(case, one_s, time.perf_counter() - began, frames)


def _deployed(case: _Case) -> VideoDecoding:
    config = AppConfig(decoder=DecoderConfig(workers=1, max_parts=case.max_parts, timeout_s=_TIMEOUT_S))
    kind = VideoDecoder if case.kind == "1080p" else WaitingDecoder
    decoders = found_again(kind, StageName.VIDEO_DECODE, config).options(
        num_replicas=case.replicas, max_ongoing_requests=6, ray_actor_options={"num_cpus": 0, "resources": {"media": 1}}
    )
    serve.run(_Root.bind(decoders.bind(config, fetcher=_Nobody.bind())), name="parts", route_prefix=None)
    return VideoDecoding(Stage(serve.get_deployment_handle("VideoDecoder", "parts"), StageName.VIDEO_DECODE))


async def _decoded(door: VideoDecoding, ref: TensorRef, number: int) -> TensorRef:
    result = await door.decode(Deadline(_TIMEOUT_S, "decode"), TASK, ref, key=f"clip {number}")
    assert result.payload is not None
    return result.payload


def _show(bench: Benchmark, runs: list[_Run]) -> None:
    titles = {
        "1080p": f"{REAL.name}, {FRAMES} frames, really decoded",
        "waiting": f"Decoders that wait {PACKET_PACE_S * 1e3:g} ms a packet",
    }
    for kind, title in titles.items():
        mine = [run for run in runs if run.case.kind == kind]
        first, rows = mine[0], []
        for run in mine:
            one, same = statistics.median(run.one_s), np.array_equal(run.frames, first.frames)
            rows.append(
                [
                    run.case.max_parts,
                    one,
                    statistics.median(first.one_s) / one,
                    run.crowd_s,
                    first.crowd_s / run.crowd_s,
                    "yes" if same else "NO",
                ]
            )
        columns = ["max_parts", "one video s", "times as fast", f"{CROWD} at once s", "times as fast", "same frames"]
        bench.table(title, columns, rows, f"{first.case.replicas} replicas, each of one process and one thread.")


def _answer(runs: list[_Run]) -> str:
    parts = []
    for kind, said in (("1080p", "a minute of 1080p"), ("waiting", "one that takes no cores here")):
        mine = [run for run in runs if run.case.kind == kind]
        first, last = mine[0], mine[-1]
        gain = statistics.median(first.one_s) / statistics.median(last.one_s)
        parts.append(
            f"{said} {gain:.2f} times as fast by {last.case.max_parts} decoders,"
            f" {CROWD} at once {first.crowd_s / last.crowd_s:.2f} times"
        )
    same = all(np.array_equal(run.frames, next(r for r in runs if r.case.kind == run.case.kind).frames) for run in runs)
    return f"{'; '.join(parts)}; the frames are {'the same' if same else 'NOT the same'}."


if __name__ == "__main__":
    main()
