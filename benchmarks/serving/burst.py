"""What do hundreds of video requests in one second take from the object store?

    python -m benchmarks burst [--quick] [--count 200]

The store is made small, and the lane for media is told to refuse nobody and to let in everybody: what keeps the store
from filling up, and Ray from spilling to the disk, is the bound on media bytes alone.
"""

import argparse
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import Burst, ClosedLoop
from benchmarks.kit.load.drive import LoadPlan, run_load
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.servers import Server, sluice
from benchmarks.serving.overload import BEST_ENV, GAUGES, gauge, metrics_text

QUESTION = "Hundreds of video requests in one second: does the object store keep its bound, and does Ray spill?"
MIB = 2**20
STORE_MIB = 160
SHARE = 0.5
PATIENT = {
    "max_wait_s": 600.0,
    "target_ttft_s": 600.0,
    "max_running_media": 1024,
    "max_waiting": 1024,
    "object_store_share": SHARE,
    "assumed_video_bytes": 4 * MIB,
}


class StoreWatch:
    """The highest values of the object store's metrics while the `with` block lasts."""

    def __init__(self, server: Server, interval_s: float = 0.5) -> None:
        self.peaks: dict[str, float] = dict.fromkeys(
            ("object store, bytes", "media bytes admitted", "spilled, bytes"), 0
        )
        self._server, self._interval_s = server, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StoreWatch":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            text = metrics_text(self._server)  # nothing where the machine is too busy to tell
            for name, peak in self.peaks.items():
                self.peaks[name] = max(peak, gauge(text, GAUGES[name]))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("burst", QUESTION, argv, _options)
    count = bench.args.count or (60 if bench.quick else 200)
    env = dict(pair.split("=", 1) for pair in BEST_ENV)
    env |= {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(STORE_MIB * MIB), "RAY_metrics_report_interval_ms": "500"}
    workload = WorkloadSpec(mix=bench.args.mix, seed=bench.seed, max_tokens=4, transport="url")
    with sluice(env=env, args={"ingress": PATIENT}) as server:
        run_load(LoadPlan(server.url, ClosedLoop(1, 3.0), workload, timeout_s=60, label="warm-up"))
        with StoreWatch(server) as watch:
            plan = LoadPlan(server.url, Burst(count, 1.0), workload, timeout_s=600, first_request=10**6, label="burst")
            run = run_load(plan)
            time.sleep(2.0)  # the last report of the metrics
    figures = {
        "requests": count,
        "answered": run["verdicts"]["answered"],
        "seconds": run["span_s"],
        "store_mib": STORE_MIB,
        "share_mib": STORE_MIB * SHARE,
        "peak_mib": watch.peaks["object store, bytes"] / MIB,
        "peak_admitted_mib": watch.peaks["media bytes admitted"] / MIB,
        "spilled_mib": watch.peaks["spilled, bytes"] / MIB,
    }
    note = f"{bench.args.mix}; every file is another one. Admitted: what the requests let in were expected to hold."
    bench.table("Burst", ["", "value"], [[name.replace("_", " "), value] for name, value in figures.items()], note)
    return bench.finish(_answer(figures), {"burst": figures, "run": run})


def _answer(figures: dict[str, Any]) -> str:
    return (
        f"Of {figures['requests']} video requests in one second {figures['answered']} were answered within"
        f" {figures['seconds']:.0f} s; the object store of {figures['store_mib']} MiB held at most"
        f" {figures['peak_mib']:.0f} MiB, of {figures['share_mib']:.0f} MiB allowed, and"
        f" {figures['spilled_mib']:.0f} MiB were spilled."
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, help="requests of the burst")
    parser.add_argument("--mix", default="720p@5s=1")


if __name__ == "__main__":
    main()
