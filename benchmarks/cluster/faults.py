"""What is lost when something dies? Steady load on a Ray cluster of two nodes, and one fault after another.

    python -m benchmarks faults [--quick] [--rate 3] [--only NAME ...]

Each stage has two replicas, one on each node. Replicas are killed by their process id, a node with all that runs on it;
the media host is killed, then stopped for a while; the object store is filled by someone else. For each fault:

answered         a whole answer
refused          429 or 503
failed           any other error that says what was wrong: 4xx, 502, 504, an error event in a stream
lost             no reason given: 500, an error that is not worded as OpenAI's are, a torn stream or connection, nothing
                 at all until the client gave up; must be 0, but for the connections that a proxy takes with it, and for
                 those that nobody takes until there is another
last failure     seconds from the fault to the sending of the last request that was not answered
whole again      seconds from the fault until every stage has all of its replicas
"""

import argparse
import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.cluster.faults_cluster import STAGES, FaultyCluster
from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import OpenLoop
from benchmarks.kit.load.client import ChatClient
from benchmarks.kit.load.drive import served_model
from benchmarks.kit.load.outcome import Outcome
from benchmarks.kit.load.workload import Workload, WorkloadSpec

QUESTION = "What is lost when replicas, nodes or media hosts die under load, and how long does it take to recover?"
_REQUESTS_APART = 100_000
_POLL_S = 0.25
_WITH_A_REASON = ("http 4", "http 502", "stream error")


@dataclass(slots=True)
class Run:
    """One fault. Instants are seconds since the load began."""

    outcomes: list[Outcome] = field(default_factory=list)
    start_s: float = 0.0
    """On `time.perf_counter`'s clock."""
    fault_s: float = 0.0
    whole_s: float | None = None
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def now_s(self) -> float:
        return time.perf_counter() - self.start_s

    def figures(self) -> dict[str, Any]:
        verdicts = Counter(_verdict(outcome) for outcome in self.outcomes)
        hurt = [outcome for outcome in self.outcomes if outcome.verdict != "answered"]
        reasons = Counter(outcome.reason + (", not worded" if not outcome.worded else "") for outcome in hurt)
        waits = [outcome.ended_s - outcome.sent_s for outcome in self.outcomes if outcome.verdict == "answered"]
        return {
            "sent": len(self.outcomes),
            **{verdict: verdicts[verdict] for verdict in ("answered", "refused", "failed", "lost")},
            "slowest_answer_s": max(waits, default=None),
            "last_failure_s": max((outcome.sent_s - self.fault_s for outcome in hurt), default=None),
            "whole_s": None if self.whole_s is None else self.whole_s - self.fault_s,
            "reasons": dict(reasons),
        }


def _verdict(outcome: Outcome) -> str:
    if not outcome.worded:
        return "lost"
    if outcome.verdict in ("answered", "refused"):
        return outcome.verdict
    return "failed" if outcome.verdict == "expired" or outcome.reason.startswith(_WITH_A_REASON) else "lost"


class Trial:
    """Load on one application, and a fault in the middle of it."""

    def __init__(self, bench: Benchmark, cluster: FaultyCluster) -> None:
        self._bench, self._cluster, self._args = bench, cluster, bench.args
        self._spec = WorkloadSpec(mix=self._args.mix, seed=bench.seed, transport="url")
        self._runs = 0

    def run(self, fault: str) -> Run:
        """Load on a thread of its own; harm is done on this one: Ray starts nodes on no other."""
        self._runs += 1
        run = Run()
        with ThreadPoolExecutor(1) as thread:
            load = thread.submit(asyncio.run, self._load(run, fault))
            try:
                run.started.wait(60)
                time.sleep(self._args.before)
                run.fault_s = run.now_s()
                getattr(self._cluster, fault)()
                self._wait_until_whole(run)
                time.sleep(self._args.settle)
            finally:
                run.ended.set()
            run.outcomes = load.result()
        return run

    def _wait_until_whole(self, run: Run) -> None:
        give_up = run.now_s() + self._args.patience
        while run.now_s() < give_up:
            if self._cluster.is_whole():
                run.whole_s = run.now_s()
                return
            time.sleep(_POLL_S)

    async def _load(self, run: Run, label: str) -> list[Outcome]:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
            model = await served_model(session, self._cluster.url)
            workload = Workload(self._spec, model, self._cluster.add_media, self._runs * _REQUESTS_APART)
            run.start_s = time.perf_counter()
            run.started.set()
            client = ChatClient(session, self._cluster.url, run.start_s, self._args.timeout)
            asked: list[asyncio.Task[Outcome]] = []
            due = OpenLoop(self._args.rate, 3600.0).due_s(self._bench.seed)
            for due_s in self._bench.progress(due, label):
                await asyncio.sleep(due_s - run.now_s())
                if run.ended.is_set():
                    break
                asked.append(asyncio.create_task(client.ask(workload.next(), due_s)))
            return list(await asyncio.gather(*asked))


FAULTS = {
    "nothing": "nothing",
    "kill_one_fetcher": "one fetcher of two",
    "kill_one_decoder": "one decoder of two",
    "kill_one_preprocessor": "one preprocessor of two",
    "kill_one_model": "one model replica of two",
    "kill_all_decoders": "all decoders",
    "kill_all_preprocessors": "all preprocessors",
    "kill_all_models": "all model replicas",
    "kill_one_ingress": "one ingress of two",
    "kill_all_ingresses": "all ingresses",
    "kill_proxy": "the HTTP proxy",
    "kill_media_host": "media host, back after 5 s",
    "stall_media_host": "media host silent for 5 s",
    "fill_object_store": "object store filled for 5 s",
    "kill_node": "a node, replaced at once",
}
_QUICK = ("nothing", "kill_one_decoder", "kill_one_model", "kill_all_preprocessors", "kill_media_host")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("faults", QUESTION, argv, _options)
    chosen = bench.args.only or (_QUICK if bench.quick else tuple(FAULTS))
    runs: dict[str, dict[str, Any]] = {}
    with FaultyCluster() as cluster:
        trial = Trial(bench, cluster)
        trial.run("nothing")  # a warm-up
        for fault in chosen:
            runs[fault] = trial.run(fault).figures()
            print(f"{FAULTS[fault]}: {runs[fault]}", flush=True)
            if runs[fault]["whole_s"] is None:
                print(f"not whole {bench.args.patience:.0f} s after it: {cluster.state()}", flush=True)
    _show(bench, runs)
    return bench.finish(_answer(runs), {"runs": runs, "replicas": dict.fromkeys(STAGES, 2)})


def _show(bench: Benchmark, runs: dict[str, dict[str, Any]]) -> None:
    names = ("sent", "answered", "refused", "failed", "lost", "slowest_answer_s", "last_failure_s", "whole_s")
    rows = [
        [
            FAULTS[fault],
            *(figures[name] for name in names),
            ", ".join(f"{reason}: {count}" for reason, count in figures["reasons"].items()),
        ]
        for fault, figures in runs.items()
    ]
    columns = [
        "fault",
        "sent",
        "answered",
        "refused",
        "failed",
        "lost",
        "slowest answer",
        "last failure",
        "whole again",
    ]
    note = (
        f"{bench.args.rate:g} requests/s, {bench.args.mix}; seconds. Refused: 429 and 503; failed: any other error with"
        " a reason; lost: none given. Last failure and whole again: since the fault."
    )
    bench.table("Faults under load", [*columns, "reasons"], rows, note)


def _answer(runs: dict[str, dict[str, Any]]) -> str:
    totals = {
        name: sum(run[name] for run in runs.values()) for name in ("sent", "answered", "refused", "failed", "lost")
    }
    whole = [run["whole_s"] for run in runs.values()]
    slowest = "never in one case" if None in whole else f"after {max(whole):.0f} s at most"
    return (
        f"Of {totals['sent']} requests under {len(runs)} faults {totals['answered']} were answered, {totals['refused']}"
        f" refused, {totals['failed']} failed with a reason and {totals['lost']} lost without one; all replicas were"
        f" back {slowest}."
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=3.0, help="requests a second")
    parser.add_argument("--mix", default="mixed")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds after which a client gives up")
    parser.add_argument("--before", type=float, default=4.0, help="seconds of load before the fault")
    parser.add_argument("--settle", type=float, default=4.0, help="seconds of load after the recovery")
    parser.add_argument("--patience", type=float, default=120.0, help="longest wait for the recovery")
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), help="these faults alone")


if __name__ == "__main__":
    main()
