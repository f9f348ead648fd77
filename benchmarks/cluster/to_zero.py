"""What does a model cost whom nobody asks, and what does its first request wait for? A simulated cluster of two nodes.

    python -m benchmarks to_zero [--quick]

Two models in one application, each with a node of its own (`paced.py`: they wait instead of computing; loading is
real). One is asked all the time; the other has `min_replicas: 0`, so that its node is free while nobody asks for it.
Its clients do what they are told: a 503 says when to come back, and then they come back.
"""

import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from benchmarks.cluster.scaling import SimulatedCluster, paced_config
from benchmarks.kit.harness import Benchmark
from benchmarks.kit.processes import replicas
from benchmarks.kit.servers import OwnServer
from tests.support.serve_files import deployments_of, with_models

QUESTION = "What does a model cost whom nobody asks, and what does its first request wait for?"
BUSY, RARE = "busy", "rare"
IDLE_AFTER_S = 5.0
"""`downscale_delay_s` of the rare one; ten minutes by default."""
PATIENCE_S = 180.0
_SECTION = {"device": "cpu", "engine": {"max_running": 4, "max_context_tokens": 1024, "threads": 1}}


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One wait of a client that came while its model had no replica."""

    refused_s: float
    """Until it heard that it should come back."""
    told_s: float
    """When, at first."""
    answered_s: float
    asks: int
    busy_s: float
    """Median time of the other model's answers meanwhile."""
    gone_s: float
    """From the answer until the replica was gone."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("to_zero", QUESTION, argv)
    with SimulatedCluster(2) as cluster, cluster.serving(config) as server:
        _wait_until(lambda: _ready(server)["models"] == {BUSY: "ready", RARE: "idle"})
        _ask(server, BUSY)  # a warm-up
        with _busy(server) as alone_s:
            time.sleep(5 if bench.quick else 15)
        starts = [_cold_start(server) for _ in bench.progress(range(2 if bench.quick else 4), "cold starts")]
    _show(bench, statistics.median(alone_s), starts)
    return bench.finish(_answer(statistics.median(alone_s), starts), {"alone_s": alone_s})


def config(port: int) -> dict[str, Any]:
    """The paced application with two models, one of which may go."""
    tree = with_models(paced_config(port, replicas=1, ingresses=1, args={}), {BUSY: _SECTION, RARE: _SECTION})
    entry = deployments_of(tree)[f"Model:{RARE}"]
    del entry["num_replicas"]
    entry["autoscaling_config"] = {
        "min_replicas": 0,
        "max_replicas": 1,
        "metrics_interval_s": 0.5,
        "look_back_period_s": 1.0,
        "downscale_delay_s": IDLE_AFTER_S,
        "policy": {"policy_function": "deployments.autoscaling:by_load"},
    }
    return tree


def _cold_start(server: OwnServer) -> ColdStart:
    asked_at = time.monotonic()
    with _busy(server) as busy_s:
        status, told_s = _ask(server, RARE)
        assert status == 503, status
        refused_s, first_told_s, asks = time.monotonic() - asked_at, told_s, 1
        while status == 503:
            time.sleep(told_s)
            status, told_s = _ask(server, RARE)
            asks += 1
        assert status == 200, status
        answered_s = time.monotonic() - asked_at
    _wait_until(lambda: not replicas(os.getpid(), f"Model:{RARE}") and _ready(server)["models"][RARE] == "idle")
    gone_s = time.monotonic() - asked_at - answered_s
    return ColdStart(refused_s, first_told_s, answered_s, asks, statistics.median(busy_s), gone_s)


@contextmanager
def _busy(server: OwnServer) -> Iterator[list[float]]:
    """Somebody asks the other model again and again; seconds of each answer."""
    seconds: list[float] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            began = time.monotonic()
            status, _ = _ask(server, BUSY)
            assert status == 200, status
            seconds.append(time.monotonic() - began)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seconds
    finally:
        over.set()
        thread.join()


def _ask(server: OwnServer, model: str) -> tuple[int, float]:
    """The status, and when to come back."""
    body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    request = Request(
        f"{server.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urlopen(request, timeout=PATIENCE_S) as answer:
            return int(answer.status), 0.0
    except HTTPError as error:
        return error.code, float(error.headers.get("retry-after", 0))


def _ready(server: OwnServer) -> dict[str, Any]:
    with urlopen(f"{server.url}/ready", timeout=30) as answer:
        said: dict[str, Any] = json.loads(answer.read())
        return said


def _wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > give_up:
            raise RuntimeError("the model neither came nor went")
        time.sleep(0.25)


def _show(bench: Benchmark, alone_s: float, starts: Sequence[ColdStart]) -> None:
    rows = [
        [number, s.refused_s * 1e3, s.told_s, s.answered_s, s.asks, s.busy_s / alone_s, s.gone_s]
        for number, s in enumerate(starts, 1)
    ]
    columns = [
        "start",
        "503 after ms",
        "told to come back in",
        "answered after",
        "asks",
        "the other's time",
        "gone after",
    ]
    note = (
        f"Seconds but for the first. The other's time: median of the other model's answers meanwhile, as a multiple of"
        f" {alone_s * 1e3:.0f} ms alone. Gone: from the answer until no replica is left; `downscale_delay_s` is"
        f" {IDLE_AFTER_S:g}."
    )
    bench.table("A model at zero", columns, rows, note)


def _answer(alone_s: float, starts: Sequence[ColdStart]) -> str:
    refused_ms = max(s.refused_s for s in starts) * 1e3
    slowest, slower = max(s.answered_s for s in starts), max(s.busy_s for s in starts) / alone_s
    gone = max(s.gone_s for s in starts)
    return (
        f"No replica while nobody asks. The first request hears 503 within {refused_ms:.0f} ms and is answered within"
        f" {slowest:.1f} s, in {max(s.asks for s in starts)} tries at most; the other model's answers take {slower:.1f}"
        f" times as long meanwhile; {gone:.0f} s after the answer the replica is gone again."
    )


if __name__ == "__main__":
    main()
