"""Does anything grow while the application works for a long time?

    python -m benchmarks soak [--minutes 20] [--load 0.5] [--cache-mib 64]

Steady Poisson arrivals at a part of the measured capacity. Every few seconds: memory, threads, descriptors and files of
all of the application's processes. After a while in which caches fill, a line is drawn through each of them: its slope
an hour, and the interval in which 95 % of the slopes lie that one gets from the same minutes drawn anew (a bootstrap of
blocks of minutes, because neighbouring samples are not independent).

grows      surely more than 1 % an hour: even the lower end of the interval
flat       surely less than 5 % an hour: even the upper end of it
unclear    neither; a longer run would tell

Slots, references and queues follow the load of the moment: what they hold must be gone at the end. No file is sent
twice: what is kept of media (files, decoded videos, encoder outputs) is full soon, and each must stay within its bound.
"""

import argparse
import math
import random
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import ClosedLoop, OpenLoop
from benchmarks.kit.load.drive import LoadPlan, run_load
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.processes import own_memory_by_name
from benchmarks.kit.servers import OwnServer, sluice
from benchmarks.serving.overload import BEST_ENV, GAUGES, apart, gauge, leftovers, metrics_text

QUESTION = "Does memory, or anything else, grow while the application works for a long time?"
MIB = 2**20
INTERVAL_S = 15.0
WARM_SHARE = 0.3
"""Of the run, in which caches and pools fill: not counted."""
RESAMPLES = 2000
OWN = "own memory, MiB"
"""Of all processes, without what they map from files, which is shared with whatever else runs on the machine."""
BLOCK = 3
"""Minutes that are drawn together: what one minute leaves behind, the next ones have too."""
GROWTH_PER_HOUR = 0.01
FLAT_PER_HOUR = 0.05
"""Of the mean."""
CACHES = {cache: f"{cache} cache, MiB" for cache in ("fetch", "video_decode", "encode")}
_IGNORED = (*GAUGES, "memory, MiB", *CACHES.values())
"""What follows the load of the moment, the memory that is shared with other programs, and what has a bound."""
_JUDGED = (OWN, "processes", "threads", "descriptors", "files")
"""The rest are parts of them: of so many some seem to grow by chance."""

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Slope:
    """What a quantity gains in an hour."""

    per_hour: float
    low: float
    high: float
    mean: float

    @property
    def verdict(self) -> Literal["grows", "flat", "unclear"]:
        if self.low > GROWTH_PER_HOUR * self.mean:
            return "grows"
        return "flat" if self.high <= FLAT_PER_HOUR * self.mean else "unclear"


def slope(samples: Sequence[tuple[float, float]], seed: int = 0) -> Slope:
    """Through `samples` of (seconds, value), by least squares over the means of minutes."""
    minutes: dict[int, list[float]] = {}
    for second, value in samples:
        minutes.setdefault(int(second // 60), []).append(value)
    points = [(minute / 60, statistics.fmean(values)) for minute, values in minutes.items()]
    if len(points) < 2:
        raise ValueError("a slope needs samples of more than one minute after the warm-up")
    source, drawn = random.Random(seed), []
    size = max(1, min(BLOCK, len(points) // 3))
    blocks = [points[start : start + size] for start in range(len(points) - size + 1)]
    while len(drawn) < RESAMPLES:
        chosen = [point for block in source.choices(blocks, k=math.ceil(len(points) / size)) for point in block]
        if len({hour for hour, _ in chosen}) > 1:
            drawn.append(_line(chosen))
    cuts = statistics.quantiles(drawn, n=40)
    return Slope(_line(points), cuts[0], cuts[-1], statistics.fmean(value for _, value in points))


def _line(points: Sequence[tuple[float, float]]) -> float:
    hours, values = zip(*points, strict=True)
    return statistics.linear_regression(hours, values).slope


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("soak", QUESTION, argv, _options)
    args = bench.args
    seconds = 60.0 * (args.minutes or (3.0 if bench.quick else 20.0))
    server = sluice(env=dict(pair.split("=", 1) for pair in BEST_ENV), args=_settings(args.cache_mib))
    with apart(server):
        workload = WorkloadSpec(mix=args.mix, seed=bench.seed, max_tokens=16, transport="url")
        warm_up = run_load(LoadPlan(server.url, ClosedLoop(args.users, 15.0), workload, label="capacity"))
        before = leftovers(server, args.calm)
        arrivals = OpenLoop(args.rate or args.load * warm_up["answered_rate"], seconds)
        plan = LoadPlan(server.url, arrivals, workload, first_request=10**6, label="soak")
        with ThreadPoolExecutor(1) as thread:
            load = thread.submit(run_load, plan)
            samples = _watch(server, load)
        run = load.result()
        after = leftovers(server, args.calm)
        evictions = {cache: _of_cache(metrics_text(server), "evictions_total", cache) for cache in CACHES}
    lasting = [name for name in samples[0][1] if name in samples[-1][1] and name not in _IGNORED]
    slopes = {name: _slope_of(samples, name, seconds) for name in lasting}
    most = {cache: max(values.get(name, 0.0) for _, values in samples) for cache, name in CACHES.items()}
    _show(bench, slopes, before, after)
    rows = [[cache, args.cache_mib, most[cache], evictions[cache]] for cache in CACHES]
    bench.table("What is kept", ["cache", "bound, MiB", "most, MiB", "made way"], rows)
    _plot(bench, samples)
    results = {
        "slopes": {name: {"per_hour": s.per_hour, "low": s.low, "high": s.high} for name, s in slopes.items()},
        "run": run,
        "before": before,
        "after": after,
        "kept": {"bound_mib": args.cache_mib, "most_mib": most, "evictions": evictions},
        "samples": [[round(at, 1), values] for at, values in samples],
    }
    over = [cache for cache, mib in most.items() if mib > args.cache_mib]
    kept = (
        f" What is kept of media: {'beyond' if over else 'within'} its bounds, {sum(evictions.values()):.0f} made way."
    )
    return bench.finish(_answer(run, slopes, seconds) + kept, results)


def _settings(cache_mib: float) -> dict[str, Any]:
    """Each cache has so much room; decoded videos as a share of what media may hold."""
    size_bytes = int(cache_mib * MIB)
    most_bytes = max(2 * size_bytes, 512 * MIB)
    return {
        "media": {"cache_bytes": size_bytes},
        "ingress": {"max_media_bytes_in_flight": most_bytes, "decoded_share": size_bytes / most_bytes},
        "engine": {"reuse_cache_mib": cache_mib},
    }


def _of_cache(exposition: str, what: str, cache: str) -> float:
    return gauge(exposition, rf'ray_sluice_cache_{what}(?={{[^}}]*cache="{cache}")')


def _watch(server: OwnServer, load: "Future[Figures]") -> list[tuple[float, dict[str, float]]]:
    started, samples = time.monotonic(), []
    ended = threading.Event()
    load.add_done_callback(lambda _: ended.set())
    while not ended.wait(INTERVAL_S):
        assert server.pid is not None
        sizes = own_memory_by_name(server.pid)
        by_name = {f"{name}, MiB": size / MIB for name, size in sizes.items()} | {OWN: sum(sizes.values()) / MIB}
        files = sum(path.is_file() for path in server.log.parent.rglob("*") if "logs" not in path.parts)
        text = metrics_text(server)
        by_name |= {name: _of_cache(text, "bytes", cache) / MIB for cache, name in CACHES.items()}
        samples.append((time.monotonic() - started, leftovers(server, 0) | {"files": files} | by_name))
    return samples


def _slope_of(samples: Sequence[tuple[float, dict[str, float]]], name: str, seconds: float) -> Slope:
    return slope([(at, values[name]) for at, values in samples if at > WARM_SHARE * seconds and name in values])


def _show(bench: Benchmark, slopes: dict[str, Slope], before: dict[str, float], after: dict[str, float]) -> None:
    rows = [
        [name, before.get(name), after.get(name), s.mean, s.per_hour, s.low, s.high, s.verdict]
        for name, s in slopes.items()
        if s.mean or after.get(name)
    ]
    columns = ["", "before", "after", "mean", "an hour", "from", "to", ""]
    note = "Before and after: at rest. Mean and growth under load, with the 95 % interval of the growth."
    bench.table("What grows", columns, rows, note)
    left = [[name, before[name], after[name]] for name in GAUGES if name in after]
    bench.table("What is left", ["", "before", "after"], left, "At rest, before the run and after it.")


def _plot(bench: Benchmark, samples: Sequence[tuple[float, dict[str, float]]]) -> None:
    minutes = [round(at / 60, 2) for at, _ in samples]
    series = {"all processes": [values[OWN] for _, values in samples]}
    bench.plot("lines", "Memory", minutes, series, x_label="minutes", y_label="MiB")


def _answer(run: Figures, slopes: dict[str, Slope], seconds: float) -> str:
    memory = slopes[OWN]
    grows, unclear = (
        ", ".join(name for name in _JUDGED if slopes[name].verdict == verdict) for verdict in ("grows", "unclear")
    )
    return (
        f"{run['verdicts']['answered']} of {run['sent']} requests were answered in {seconds / 60:.0f} minutes; memory"
        f" changed by {memory.per_hour:+.0f} MiB an hour ({memory.low:+.0f} to {memory.high:+.0f}) of"
        f" {memory.mean:.0f} MiB; what grows: {grows or 'nothing'};"
        f" what may: {unclear or 'nothing'}."
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--load", type=float, default=0.5, help="part of the capacity")
    parser.add_argument("--rate", type=float, help="requests a second, in place of --load")
    parser.add_argument("--mix", default="mixed")
    parser.add_argument("--cache-mib", type=float, default=64.0, help="room of each cache of media")
    parser.add_argument("--users", type=int, default=8, help="concurrency at which the capacity is measured")
    parser.add_argument("--calm", type=float, default=12.0, help="seconds to wait for metrics: Ray's come every 10 s")


if __name__ == "__main__":
    main()
