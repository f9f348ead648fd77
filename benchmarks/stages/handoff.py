"""What does it cost to hand a tensor to the next stage, by its size?

    python -m benchmarks handoff [--quick] [--mb 0.1 10 200]

From the moment at which one stage has an array to the moment at which the next one has read each of its pages. Ours:
two calls by a third replica as the ingress makes them (`calls.Stage`): the producer's answer is copied into shared
memory once, the consumer maps it. Against one copy within a process (the floor for anything that copies), and against
the usual way between processes: pickled, through a pipe, unpickled.
"""

import argparse
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from benchmarks.kit.harness import Benchmark
from deployments.core.deadline import Deadline
from deployments.serving.client import Stage
from deployments.serving.replica import stage_method
from tests.support.free_port import free_port

QUESTION = "What does it cost to hand a tensor to the next stage?"
_PAGE = 4096
_MB = 1_000_000
_STORE_BYTES = 1 << 30
_OPTIONS: dict[str, Any] = {
    "ray_actor_options": {"num_cpus": 0},
    "max_ongoing_requests": 4,
    "logging_config": {"enable_access_log": False},
}
_APP_NAME = "handoff"


@serve.deployment(**_OPTIONS)
class Producer:
    """Has an array of each size ready, as a stage has at its end."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._arrays = {size: made(size) for size in sizes}

    @stage_method
    async def produce(self, remaining_s: float, size: int) -> AsyncGenerator[Any, None]:
        yield size
        yield self._arrays[size]


@serve.deployment(**_OPTIONS)
class Consumer:
    @stage_method
    async def consume(self, remaining_s: float, array: NDArray[np.uint8]) -> AsyncGenerator[Any, None]:
        yield read(array)


@serve.deployment(**_OPTIONS)
class Caller:
    """In the ingress's place: it sees references only."""

    def __init__(self, producer: "DeploymentHandle[Any]", consumer: "DeploymentHandle[Any]") -> None:
        self._producer, self._consumer = Stage(producer, "producer"), Stage(consumer, "consumer")

    async def hop(self, size: int) -> float:
        deadline = Deadline(60.0, "handoff")
        started = time.perf_counter()
        made = await self._producer.call("produce", deadline, size)
        assert made.payload is not None
        await self._consumer.call("consume", deadline, payloads=[made.payload])
        return time.perf_counter() - started


def made(size: int) -> NDArray[np.uint8]:
    """(size,), its pages written."""
    return np.random.default_rng(0).integers(0, 256, size, np.uint8)


def read(array: NDArray[np.uint8]) -> int:
    """A byte of each page: what was mapped is then really there."""
    return int(array[::_PAGE].sum())


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("handoff", QUESTION, argv, _options)
    megabytes = bench.args.mb or ([0.1, 10.0, 50.0] if bench.quick else [0.1, 1.0, 10.0, 50.0, 200.0])
    sizes = [1, *(round(mb * _MB) for mb in megabytes)]
    rounds = 7 if bench.quick else 21
    seconds = {"one copy": by_copy(sizes, rounds), "pickle and pipe": by_pipe(sizes, rounds)}
    seconds["ours"] = by_stages(bench, sizes, rounds)
    _show(bench, sizes, seconds, rounds)
    results = {name: {str(size): found for size, found in times.items()} for name, times in seconds.items()}
    return bench.finish(_answer(sizes, seconds), results)


def _show(bench: Benchmark, sizes: Sequence[int], seconds: dict[str, dict[int, float]], rounds: int) -> None:
    rows: list[list[object]] = []
    for size in sizes:
        ours, copy, pipe = (seconds[name][size] for name in ("ours", "one copy", "pickle and pipe"))
        beyond = ours - seconds["ours"][1]
        rate = size / beyond / 1e9 if size > 1 and beyond > 0 else None
        rows.append(
            ["1 byte" if size == 1 else f"{size / _MB:g} MB", ours * 1e3, copy * 1e3, pipe * 1e3, pipe / ours, rate]
        )
    columns = ["size", "ours ms", "one copy ms", "pickle and pipe ms", "pipe / ours", "ours GB/s beyond 1 byte"]
    note = f"Medians of {rounds}. Ours: two calls through Serve's handles, which are the whole cost of the first row."
    bench.table("One hand-off between stages", columns, rows, note)
    series = {name: [times[size] * 1e3 for size in sizes[1:]] for name, times in seconds.items()}
    labels = {"x_label": "MB", "y_label": "ms", "log_x": True, "log_y": True}
    bench.plot("lines", "One hand-off between stages", [size / _MB for size in sizes[1:]], series, **labels)


def _answer(sizes: Sequence[int], seconds: dict[str, dict[int, float]]) -> str:
    large, ours = sizes[-1], seconds["ours"]
    return (
        f"A hand-off costs {ours[1] * 1e3:.1f} ms however small; {large / _MB:g} MB take {ours[large] * 1e3:.0f} ms,"
        f" {ours[large] / seconds['one copy'][large]:.1f} times one copy,"
        f" where pickle and a pipe take {seconds['pickle and pipe'][large] * 1e3:.0f} ms."
    )


# ── the three ways ───────────────────────────────────────────────────────────────────────────────────────────────────


def by_stages(bench: Benchmark, sizes: Sequence[int], rounds: int) -> dict[int, float]:
    """Median seconds of a hop by size."""
    folder = tempfile.mkdtemp(prefix="sb-", dir="/tmp")  # sockets below it need a short path
    ray.init(
        num_cpus=2,
        object_store_memory=_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=folder,
        _system_config={"worker_niceness": 0},  # the priority of everything else here
    )
    try:
        serve.start(http_options={"location": "NoServer", "port": free_port()})
        application = Caller.bind(Producer.bind(sizes), Consumer.bind())
        handle = serve.run(application, name=_APP_NAME, route_prefix=None)
        seconds = {}
        for size in bench.progress(sizes, "ours"):
            found = [float(handle.hop.remote(size).result()) for _ in range(rounds + 1)]
            seconds[size] = statistics.median(found[1:])  # the first one finds the store's pages untouched
        return seconds
    finally:
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def by_copy(sizes: Sequence[int], rounds: int) -> dict[int, float]:
    """Into memory whose pages are there already."""

    def once(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        np.copyto(target, source)
        read(target)

    pairs = {size: (made(size), made(size)) for size in sizes}
    return {size: _median(lambda pair=pairs[size]: once(*pair), rounds) for size in sizes}


def by_pipe(sizes: Sequence[int], rounds: int) -> dict[int, float]:
    """From another process, which is asked for it as the producer is."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_produce_into, args=(theirs, sizes), daemon=True)
    child.start()

    def once(size: int) -> None:
        ours.send(size)
        read(ours.recv())

    try:
        return {size: _median(lambda size=size: once(size), rounds) for size in sizes}
    finally:
        child.terminate()
        child.join()


def _produce_into(pipe: Connection, sizes: Sequence[int]) -> None:
    arrays = {size: made(size) for size in sizes}
    while True:
        pipe.send(arrays[pipe.recv()])


def _median(once: Callable[[], None], rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mb", nargs="+", type=float, help="sizes in millions of bytes")


if __name__ == "__main__":
    main()
