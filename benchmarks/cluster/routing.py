"""Do questions about the same clips meet at the same replicas, and are those evenly busy all the same?

    python -m benchmarks routing [--quick] [--users 64]

Users who never pause ask about eight clips, on a simulated cluster of two nodes for video decoders and two for models
(`paced.py`: the two stages wait instead of working). With routing by content, beside Ray's own routing, and once more
by content while one replica of either stage is killed.

A clip is *at home* where its key prefers to go. A call that finds its clip at home would find what that replica keeps
of it; so would most of those that don't, since the busy ones of a clip's replicas give it to one and the same other.
"""

import argparse
import os
import re
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.request import urlopen

from benchmarks.cluster.scaling import DECODER, MODEL, SimulatedCluster
from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import ClosedLoop
from benchmarks.kit.load.drive import LoadPlan, run_load
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.processes import replicas
from benchmarks.kit.servers import OwnServer

QUESTION = "Do questions about the same clips meet at the same replicas, and are those evenly busy all the same?"
REPLICAS, CLIPS = 2, 8
STAGES = {DECODER: "video_decode", MODEL: "model"}
REPORTED_S = 12.0
"""Until Ray's agents have exported what a run has counted."""
_ARGS: dict[str, Any] = {
    "decode_pace_s": 0.1,
    "step_pace_s": 0.02,
    "ingress": {"max_running_media": 64, "target_ttft_s": 120, "max_wait_s": 120},
    "engine": {"max_running": 32},
}
_SAMPLE = re.compile(r"(?P<name>\w+)\{(?P<tags>[^}]*)\} (?P<value>\S+)")
Counts = dict[tuple[str, str, str], float]
"""(metric, stage or deployment, outcome or replica): count."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("routing", QUESTION, argv, _options)
    runs: dict[str, dict[str, Any]] = {}
    with SimulatedCluster(REPLICAS) as cluster:
        for name, by_content in (("by content", True), ("Ray's own", False)):
            with cluster.sluice(REPLICAS, args=_ARGS | {"routing": {"by_content": by_content}}) as server:
                cluster.wait_for(REPLICAS, server)
                _load(bench, server, 2.0)  # a warm-up
                runs[name] = _measure(bench, server, kill=False)
                print(f"{name}: {runs[name]}", flush=True)
                if by_content:
                    runs["one of each killed"] = _measure(bench, server, kill=True)
                    print(f"killed: {runs['one of each killed']}", flush=True)
    _show(bench, runs)
    return bench.finish(_answer(runs), {"runs": runs, "users": bench.args.users, "clips": CLIPS})


def _measure(bench: Benchmark, server: OwnServer, *, kill: bool) -> dict[str, Any]:
    time.sleep(REPORTED_S)
    before, seconds = _counts(server), 10.0 if bench.quick else 30.0
    killer = threading.Timer(seconds / 2, _kill_one_of_each)
    if kill:
        killer.start()
    figures = _load(bench, server, seconds)
    killer.cancel()
    time.sleep(REPORTED_S)
    counted = {key: count - before.get(key, 0.0) for key, count in _counts(server).items()}
    return {
        "rate": figures["answered_rate"],
        "verdicts": figures["verdicts"],
        "reasons": figures.get("reasons", {}),
        "at_home": {stage: _at_home(counted, STAGES[stage]) for stage in STAGES},
        "calls": {stage: _calls(counted, stage) for stage in STAGES},
    }


def _load(bench: Benchmark, server: OwnServer, seconds: float) -> dict[str, Any]:
    workload = WorkloadSpec(mix="64x48@1s", seed=bench.seed, max_tokens=8, distinct_media=False)
    return run_load(LoadPlan(server.url, ClosedLoop(bench.args.users, seconds), workload, timeout_s=120))


def _kill_one_of_each() -> None:
    for stage in STAGES:
        replicas(os.getpid(), stage)[0].kill()


def _counts(server: OwnServer) -> Counts:
    with urlopen(f"{server.url}/metrics", timeout=30) as page:
        text = page.read().decode()
    counts: Counts = {}
    for sample in _SAMPLE.finditer(text):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', sample["tags"]))
        if sample["name"] == "ray_sluice_routed_total":
            key = ("routed", tags["stage"], tags["outcome"])
        elif sample["name"] == "ray_serve_deployment_request_counter_total":
            key = ("calls", tags["deployment"], tags["replica"])
        else:
            continue
        counts[key] = counts.get(key, 0.0) + float(sample["value"])
    return counts


def _at_home(counted: Counts, stage: str) -> float | None:
    """Share of a stage's calls; None where nobody counts it."""
    home, other = (counted.get(("routed", stage, outcome), 0.0) for outcome in ("preferred", "other"))
    return home / (home + other) if home + other else None


def _calls(counted: Counts, deployment: str) -> list[int]:
    """Of each replica, most first."""
    calls = [round(count) for (what, name, _), count in counted.items() if (what, name) == ("calls", deployment)]
    return sorted((count for count in calls if count), reverse=True)


def _show(bench: Benchmark, runs: dict[str, dict[str, Any]]) -> None:
    rows = []
    for name, run in runs.items():
        lost = sum(run["verdicts"].values()) - run["verdicts"]["answered"]
        for stage in STAGES:
            home, calls = run["at_home"][stage], run["calls"][stage]
            rows.append([name, stage, home, calls, _spread(calls), run["rate"], lost])
    columns = ["routing", "stage", "at home", "calls by replica", "most / least", "answers/s", "not answered"]
    note = f"{bench.args.users} users, {CLIPS} clips, {REPLICAS} replicas of either stage."
    bench.table("Replicas of the same clips", columns, rows, note)


def _spread(calls: Sequence[int]) -> float | None:
    return max(calls) / min(calls) if len(calls) > 1 else None


def _answer(runs: dict[str, dict[str, Any]]) -> str:
    run, killed = runs["by content"], runs["one of each killed"]
    parts = [
        f"{stage}: {run['at_home'][stage] or 0:.0%} of the calls at home, the busier replica had"
        f" {_spread(run['calls'][stage]) or 0:.2f} times the calls of the other"
        for stage in STAGES
    ]
    lost = sum(killed["verdicts"].values()) - killed["verdicts"]["answered"]
    return f"{'; '.join(parts)}. With one replica of each killed, {lost} requests were not answered."


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=64)


if __name__ == "__main__":
    main()
