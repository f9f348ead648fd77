"""Threads or processes for the preprocessor's workers? Preparations a second of both, and how long each kind of request
holds the interpreter.

    python -m benchmarks workers [--quick]

Threads share one copy of the libraries and of the tokenizer's tables; what they lose is the time in which both want the
interpreter. A process more costs about half a gigabyte.
"""

import functools
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from benchmarks.kit.clips import ClipSpec, clip
from benchmarks.kit.harness import Benchmark
from benchmarks.kit.preparing import OURS, deadline, picture_file, preparation, question, ways
from deployments.types import Chat, ChatMessage, ChatPart, MediaInput, MediaKind

_PICTURES = {
    "picture": (1, 1600, 1200, "JPEG"),
    "four pictures of 720p": (4, 1280, 720, "JPEG"),
    "PNG page": (1, 1275, 1650, "PNG"),
}
"""(how many, width, height, format) of requests for pictures."""
_WAYS = {"video, patches at the model": OURS, "video, frames": "resized in the decode, HF to uint8"}
KINDS = ("text", *_PICTURES, *_WAYS)
SHAPES = ((1, 1), (1, 2), (2, 1))
"""(processes, threads of each)"""


@functools.cache
def _work(kind: str) -> Callable[[], object]:
    """One preparation of a kind, in this process."""
    stage = preparation("Qwen3-VL", workers=2)
    if kind == "text":
        chat = Chat((ChatMessage("user", (ChatPart("What is the capital of France? " * 20),)),))
        return lambda: stage.prepare(deadline(), chat, (), ())
    if kind in _PICTURES:
        count, width, height, fmt = _PICTURES[kind]
        files = [picture_file(width, height, fmt, seed) for seed in range(count)]
        pictures = tuple(MediaInput(MediaKind.IMAGE, f"picture {number}", fmt.lower()) for number in range(count))
        return lambda: stage.prepare(deadline(), question(count), pictures, files)
    way = replace(ways("Qwen3-VL")[_WAYS[kind]], stage=stage)
    read = way.decode(clip(ClipSpec(1080, 5, 250)))
    return lambda: way.prepare(read)


def _serve(connection: Any) -> None:
    """A process that measures on demand: (kind, threads, seconds) in, preparations a second out."""
    torch.set_num_threads(1)
    for kind, threads, seconds in iter(connection.recv, None):
        once = _work(kind)
        once()
        began = time.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            counts = [pool.submit(_count, once, began + seconds) for _ in range(threads)]
            total = sum(count.result() for count in counts)
        connection.send(total / (time.monotonic() - began))


def _count(once: Callable[[], object], ends_at: float) -> int:
    count = 0
    while time.monotonic() < ends_at:
        once()
        count += 1
    return count


class Processes:
    """Two processes that prepare, told what by pipes."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(2)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [context.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pipes]
        for process in self._processes:
            process.start()

    def rate(self, kind: str, seconds: float, processes: int, threads: int) -> float:
        """Preparations a second of all of them together."""
        for pipe in self._pipes[:processes]:
            pipe.send((kind, threads, seconds))
        return float(sum(pipe.recv() for pipe in self._pipes[:processes]))

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def gil_share(kind: str, seconds: float, rounds: int) -> float:
    """Share of a preparation's time in which it holds the interpreter, by what is left to a thread that counts."""
    once = _work(kind)
    once()
    speeds = [(_counting_beside(once, seconds), _counting_beside(functools.partial(time.sleep, 0.01), seconds))
              for _ in range(rounds)]  # fmt: skip
    return max(0.0, 1 - statistics.median(beside / alone for beside, alone in speeds))


def _counting_beside(work: Callable[[], object], seconds: float) -> float:
    """Counts a second of a thread while this one works."""
    stop, counted = threading.Event(), [0]

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1

    counter = threading.Thread(target=count)
    began = time.monotonic()
    counter.start()
    while time.monotonic() - began < seconds:
        work()
    ended = time.monotonic()
    stop.set()
    counter.join()
    return counted[0] / (ended - began)


def measure(bench: Benchmark, processes: Processes, kind: str, seconds: float, rounds: int) -> dict[str, float]:
    """Preparations a second of one thread, two threads and two processes, and the share with the interpreter held."""
    for shape in SHAPES:
        processes.rate(kind, 0.1, *shape)
    turns = bench.progress(range(rounds), f"threads or processes: {kind}")
    measured = [[processes.rate(kind, seconds, *shape) for shape in SHAPES] for _ in turns]
    one, threads, apart = (statistics.median(column) for column in zip(*measured, strict=True))
    return {"one": one, "threads": threads, "processes": apart, "gil_share": gil_share(kind, seconds, rounds)}


def main(argv: Sequence[str] | None = None) -> None:
    bench = Benchmark("workers", "Threads or processes for the preprocessor's workers?", argv)
    torch.set_num_threads(1)
    seconds, rounds = (0.3, 1) if bench.quick else (3.0, 5)
    processes = Processes()
    found = {kind: measure(bench, processes, kind, seconds, rounds) for kind in KINDS}
    processes.close()
    rows = [
        [kind, *(f[shape] for shape in ("one", "threads", "processes")), f["processes"] / f["one"],
         f["threads"] / f["processes"], f["gil_share"]]
        for kind, f in found.items()
    ]  # fmt: skip
    bench.table(
        "Preparations a second: two threads of one process, or two processes",
        ["request", "one thread", "two threads", "two processes", "processes / one", "threads / processes",
         "share holding the GIL"],
        rows,
        "Each of them with one thread of torch. On a machine of fewer than two free cores neither gains.",
    )  # fmt: skip
    worst = min(found, key=lambda kind: found[kind]["threads"] / found[kind]["processes"])
    ratio = found[worst]["threads"] / found[worst]["processes"]
    pages = found["PNG page"]["processes"] / found["PNG page"]["one"]
    bench.finish(
        f"Two threads do {ratio:.0%} of what two processes do where they do worst ({worst}); the interpreter is held "
        f"for {min(f['gil_share'] for f in found.values()):.0%} to {max(f['gil_share'] for f in found.values()):.0%} "
        f"of a preparation. Two processes prepare {pages:.2f} times as many PNG pages as one.",
        found,
    )


if __name__ == "__main__":
    main()
