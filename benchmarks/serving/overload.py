"""What happens when far more is asked than can be done? One Sluice, from half its capacity to ten times.

    python -m benchmarks overload [--quick] [--url URL]

The capacity is measured first, by users who ask again as soon as they are answered. Then Poisson arrivals at multiples
of it, with clients that give up; `/health` is asked ten times a second all the while. After the storm: what is left of
it in slots, object store, threads, descriptors and memory.

The load generator has the last core for itself where there is more than one: at ten times the capacity it would
otherwise take from the server what it asks for.
"""

import argparse
import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.request import urlopen

from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import Arrivals, ClosedLoop, OpenLoop
from benchmarks.kit.load.drive import LoadPlan, run_load
from benchmarks.kit.load.outcome import Slo
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.processes import MemoryWatch, footprint
from benchmarks.kit.servers import Server, sluice

QUESTION = "Under overload: does it still answer, does it refuse at once, and is anything left afterwards?"
BEST_ENV = ("RAY_SERVE_ENABLE_HA_PROXY=1", "RAY_SERVE_CONTROL_LOOP_INTERVAL_S=0.5")
"""As the README has it for one machine: Serve's own proxy would make refusals cost as much as answers, and its
controller takes a twentieth of a core."""
_REQUESTS_APART = 1_000_000
_MIB = 2**20
GAUGES = {
    "requests running": r"ray_sluice_requests_running",
    "requests waiting": r"ray_sluice_requests_waiting",
    "media bytes admitted": r"ray_sluice_admitted_bytes",
    "threads of stages busy": r"ray_sluice_threads_busy",
    "sequences in the engine": r"ray_sluice_sequences_(?:running|waiting)",
    "tokens in the KV cache": r"ray_sluice_kv_tokens",
    "tensors alive, bytes": r"ray_sluice_multimodal_bytes",
    "object store, bytes": r"ray_object_store_used_memory",
    "spilled, bytes": r'ray_spill_manager_objects_bytes(?={[^}]*State="Spilled")',
}
"""What to look for in `/metrics`, summed over replicas."""

_LAG = (
    "Loop lag: the longest pause of the ingress's event loop in the ten seconds before its last report; of it held: the"
    " longest that the loop's own work made, by its thread's CPU time, and not a wait for a core."
)

Figures = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("overload", QUESTION, argv, _options)
    env = dict(pair.split("=", 1) for pair in bench.args.env)
    server = Server("server", bench.args.url) if bench.args.url else sluice(env=env)
    with apart(server):
        storm = Storm(bench, server)
        capacity = storm.capacity()
        storm.run("warm-up", OpenLoop(capacity, storm.warm_up_s))
        before = leftovers(server, bench.args.calm)
        factors = bench.args.load or ([1.0, 10.0] if bench.quick else [0.5, 1.0, 2.0, 5.0, 10.0])
        runs = {factor: storm.run(f"{factor:g}x", OpenLoop(factor * capacity, storm.duration_s)) for factor in factors}
        after = leftovers(server, bench.args.calm)
    _show_answers(bench, runs, capacity)
    _show_refusals(bench, runs)
    bench.table(
        "Before the storm and after it",
        ["", "before", "after"],
        [[name, before[name], after[name]] for name in before],
        "Gauges of all replicas, and the sum over all processes of the application; memory counts shared pages once.",
    )
    _plot(bench, runs)
    results = {"capacity": capacity, "runs": {f"{f:g}": run for f, run in runs.items()}}
    return bench.finish(_answer(runs, capacity), results | {"before": before, "after": after})


@contextlib.contextmanager
def apart(server: Server) -> Iterator[None]:
    """The server runs on all cores but the last, and everything that is started in the `with` block on that one."""
    cores = sorted(os.sched_getaffinity(0))
    try:
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[:-1])
        with server:
            os.sched_setaffinity(0, cores[-1:])
            yield
    finally:
        os.sched_setaffinity(0, cores)


class Storm:
    """Runs of load against one server."""

    def __init__(self, bench: Benchmark, server: Server) -> None:
        self._args, self._server = bench.args, server
        self.duration_s: float = bench.args.duration or (4.0 if bench.quick else 20.0)
        self.warm_up_s = min(self.duration_s / 2, 4.0)
        self._runs = 0

    def capacity(self) -> float:
        """Answered requests a second of `--users` users who never pause."""
        self.run("warm-up", ClosedLoop(4, self.warm_up_s))
        figures = self.run("capacity", ClosedLoop(self._args.users, self.duration_s))
        if not figures["verdicts"]["answered"]:
            raise RuntimeError(f"nothing was answered, so there is no capacity to multiply: {figures['reasons']}")
        return float(figures["answered_rate"])

    def run(self, label: str, arrivals: Arrivals) -> Figures:
        self._runs += 1
        args = self._args
        plan = LoadPlan(
            url=self._server.url,
            arrivals=arrivals,
            workload=WorkloadSpec(mix=args.mix, seed=args.seed, max_tokens=16),
            timeout_s=args.timeout,
            slo=Slo(args.slo_ttft, args.slo_itl),
            first_request=self._runs * _REQUESTS_APART,
            label=label,
        )
        if self._server.pid is None:
            return run_load(plan)
        with MemoryWatch(self._server.pid) as watch:
            figures = run_load(plan)
        metrics = metrics_text(self._server)
        return figures | {
            "peak_memory_bytes": watch.peak_bytes,
            "peak_shared_bytes": watch.peak_shared_bytes,
            "loop_lag_s": gauge(metrics, "ray_sluice_loop_lag_seconds"),
            "loop_held_s": gauge(metrics, "ray_sluice_loop_held_seconds"),
        }


def leftovers(server: Server, calm_s: float) -> dict[str, float]:
    """What the application holds once nothing has been asked of it for `calm_s`."""
    time.sleep(calm_s)
    held: dict[str, float] = {}
    if text := metrics_text(server):
        held = {name: gauge(text, pattern) for name, pattern in GAUGES.items()}
    if server.pid is not None:
        found = footprint(server.pid)
        held |= {"processes": found.processes, "threads": found.threads, "descriptors": found.descriptors}
        held["memory, MiB"] = found.memory_bytes / _MIB
    return held


def metrics_text(server: Server) -> str:
    """The page of all metrics, empty where there is none."""
    with contextlib.suppress(OSError), urlopen(f"{server.url}/metrics", timeout=30) as response:
        return str(response.read().decode())
    return ""


def gauge(exposition: str, pattern: str) -> float:
    """The sum of the metrics in Prometheus text whose name matches."""
    values = re.findall(rf"^{pattern}(?:{{[^}}]*}})? (\S+)$", exposition, flags=re.MULTILINE)
    return sum(float(value) for value in values)


def _show_answers(bench: Benchmark, runs: dict[float, Figures], capacity: float) -> None:
    rows = []
    for factor, run in runs.items():
        text = run["kinds"].get("text", {})
        rows.append(
            [
                f"{factor:g}x",
                run["offered_rate"],
                run["goodput"],
                run["answered_rate"],
                run["ttft_s"]["p50"],
                run["ttft_s"]["p99"],
                run["e2e_s"]["p50"],
                run["e2e_s"]["p99"],
                text.get("e2e_s", {}).get("p50"),
                *(
                    round(run[name] / _MIB) if name in run else None
                    for name in ("peak_memory_bytes", "peak_shared_bytes")
                ),
            ]
        )
    columns = ["load", "offered /s", "goodput /s", "answered /s", "TTFT p50", "TTFT p99", "e2e p50", "e2e p99"]
    args = bench.args
    note = (
        f"Capacity: {capacity:.1f} answers/s of {args.users} users. Goodput: TTFT below {args.slo_ttft:g} s, ITL below"
        f" {args.slo_itl:g} s. Latencies of what was answered, in seconds; clients give up after {args.timeout:g} s."
        f" The load generator had a core of its own: {'yes' if len(os.sched_getaffinity(0)) > 1 else 'no'}."
    )
    bench.table("Answers", [*columns, "text e2e p50", "peak memory, MiB", "of it shared"], rows, note)


def _show_refusals(bench: Benchmark, runs: dict[float, Figures]) -> None:
    rows = []
    for factor, run in runs.items():
        verdicts, health = run["verdicts"], run["health_s"]
        rows.append(
            [
                f"{factor:g}x",
                run["sent"],
                verdicts["refused"],
                run["refused_with_retry_after"],
                run["refusal_s"]["p50"],
                run["refusal_s"]["p99"],
                verdicts["expired"],
                verdicts["gave_up"],
                verdicts["failed"],
                health["p50"],
                health["p99"],
                health["max"],
                run["health_failed"],
                run.get("loop_lag_s"),
                run.get("loop_held_s"),
            ]
        )
    columns = ["load", "sent", "429/503", "with Retry-After", "time to refuse p50", "p99", "504", "client gave up"]
    health = ["other errors", "/health p50", "/health p99", "/health max", "/health failed", "loop lag", "of it held"]
    failures: Counter[str] = Counter()
    for run in runs.values():
        failures.update(run["reasons"])
    listed = ", ".join(f"{reason}: {count}" for reason, count in failures.most_common())
    bench.table("Refusals, errors, health", [*columns, *health], rows, f"Reasons: {listed or 'none'}. Seconds. {_LAG}")


def _plot(bench: Benchmark, runs: dict[float, Figures]) -> None:
    factors = list(runs)
    rates = {"goodput": [run["goodput"] for run in runs.values()]}
    rates["answered"] = [run["answered_rate"] for run in runs.values()]
    bench.plot("lines", "What is answered", factors, rates, x_label="offered load / capacity", y_label="requests /s")
    latencies = {
        "TTFT p99": [run["ttft_s"]["p99"] for run in runs.values()],
        "time to refuse p99": [run["refusal_s"]["p99"] for run in runs.values()],
        "/health p99": [run["health_s"]["p99"] for run in runs.values()],
    }
    labels = {"x_label": "offered load / capacity", "y_label": "seconds"}
    bench.plot("lines", "How long it takes to hear something", factors, latencies, log_y=True, **labels)


def _answer(runs: dict[float, Figures], capacity: float) -> str:
    best = max(run["goodput"] for run in runs.values())
    hardest = max(runs)
    last = runs[hardest]
    failed = sum(run["verdicts"]["failed"] for run in runs.values())
    refusal = last["refusal_s"]["p99"]
    refused = "" if refusal is None else f" refusals take {refusal * 1e3:.0f} ms at p99,"
    return (
        f"At {hardest:g} times a capacity of {capacity:.1f} requests/s, goodput is {last['goodput']:.1f}/s,"
        f" {last['goodput'] / max(best, 1e-9):.0%} of the best;{refused} /health"
        f" {(last['health_s']['p99'] or 0) * 1e3:.0f} ms at p99 with {last['health_failed']} failures;"
        f" {failed} requests of all runs ended in an error that is neither a refusal nor a timeout."
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="a server that runs already; its memory is then not seen")
    parser.add_argument("--env", nargs="*", default=BEST_ENV, metavar="NAME=VALUE", help="for the Sluice started here")
    parser.add_argument("--mix", default="mixed")
    parser.add_argument("--load", nargs="+", type=float, help="multiples of the capacity")
    parser.add_argument("--users", type=int, default=16, help="concurrency at which capacity is measured")
    parser.add_argument("--duration", type=float, help="seconds of each run")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds after which a client gives up")
    parser.add_argument("--calm", type=float, default=12.0, help="seconds to wait for metrics: Ray's come every 10 s")
    parser.add_argument("--slo-ttft", type=float, default=2.0)
    parser.add_argument("--slo-itl", type=float, default=0.2)


if __name__ == "__main__":
    main()
