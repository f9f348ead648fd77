"""Does one client's malice hurt the others? Users at a steady rate, alone and then beside attackers of every kind.

    python -m benchmarks siege [--minutes 10] [--load 0.3] [--kinds ids,grammars,...] [--quick]

Each kind (see `attacks`) keeps at it from a few addresses, which the server tells from the users' by `x-forwarded-for`.
Attackers are here on the server's own cores, which in the world they are not. Other machines' work is not the server's:
their bodies are made before the clock runs, they run only where nobody else wants a core (niceness 19), and the table
tells what share of the machine they took all the same. Users before, in and after the siege are the same, in one run.

What must hold: users get at least 90 % of the goodput that they have alone, none of their requests fails, `/health`
answers within 100 ms at the 99th percentile, memory stays within bounds.
"""

import argparse
import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.hostile.attacks import KINDS, Attacked, run_attacks
from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import ClosedLoop, OpenLoop
from benchmarks.kit.load.drive import LoadPlan, run_load
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.processes import MemoryWatch, footprint, own_memory_by_name
from benchmarks.kit.servers import Server, sluice
from benchmarks.serving.overload import BEST_ENV, apart
from deployments.config import AppConfig
from deployments.core.priority import LOWEST

QUESTION = "Does one client's malice hurt the others?"
MIB = 2**20
LEAST_GOODPUT = 0.9
MOST_HEALTH_S = 0.1
MOST_LEFT = 1.25
"""Own memory afterwards, in terms of that before."""
ALONE_SHARE = 0.25
"""Of the time, in which the users are alone."""
_STARTED = time.monotonic()
_USERS = tuple(f"10.1.1.{number}" for number in range(8))
"""Addresses: attackers have half as many."""

Figures = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("siege", QUESTION, argv, _options)
    args = bench.args
    seconds = 60.0 * (args.minutes or (1.0 if bench.quick else 10.0))
    kinds = tuple(args.kinds.split(",")) if args.kinds else tuple(KINDS)
    env = dict(pair.split("=", 1) for pair in args.env)
    with _silent_name_server() as name_server:
        settings = {"ingress": {"client_address_header": "x-forwarded-for"}, "media": {"name_servers": [name_server]}}
        server = Server("server", args.url) if args.url else sluice(args=settings, env=env)
        return _besiege(bench, server, kinds, seconds)


def _besiege(bench: Benchmark, server: Server, kinds: tuple[str, ...], seconds: float) -> dict[str, Any]:
    args = bench.args
    _say("the server starts")
    with apart(server):
        users = _Users(bench, server)
        rate = args.rate or args.load * users.capacity()
        alone = users.run("alone", rate, seconds * ALONE_SHARE)
        before, all_before = _own_bytes(server), footprint(server.pid).memory_bytes if server.pid else 0
        watch = None if server.pid is None else MemoryWatch(server.pid)
        with watch or contextlib.nullcontext(), ThreadPoolExecutor(1) as thread:
            attack = thread.submit(run_attacks, server.url, kinds, seconds, args.niceness)
            beside = users.run("besieged", rate, seconds)
            attacked = attack.result()
        after = users.run("afterwards", rate, seconds * ALONE_SHARE)
        left = _own_bytes(server)
    _show(bench, {"alone": alone, "besieged": beside, "afterwards": after}, attacked, seconds)
    grown = max(0, watch.peak_bytes - all_before) if watch else 0
    sizes = {"before_bytes": before, "grown_bytes": grown, "left_bytes": left}
    results = {
        "rate": rate,
        "alone": alone,
        "besieged": beside,
        "afterwards": after,
        "answers": attacked.answers,
        **sizes,
    }
    results["attackers_cpu_s"] = attacked.cpu_s
    promises = _promises(results)
    rows = [[promise, bound, found, "kept" if kept else "MISSED"] for promise, bound, found, kept in promises]
    bench.table("The promises", ["", "bound", "found", ""], rows)
    return bench.finish(_answer(promises), results)


class _Users:
    """Runs of the same users against one server."""

    def __init__(self, bench: Benchmark, server: Server) -> None:
        self._bench, self._server, self._runs = bench, server, 0

    def capacity(self) -> float:
        self._load("warm-up", ClosedLoop(4, 4.0))
        return float(self._load("capacity", ClosedLoop(8, 6.0 if self._bench.quick else 15.0))["answered_rate"])

    def run(self, label: str, rate: float, seconds: float) -> Figures:
        return self._load(label, OpenLoop(rate, seconds))

    def _load(self, label: str, arrivals: OpenLoop | ClosedLoop) -> Figures:
        self._runs += 1
        workload = WorkloadSpec(mix=self._bench.args.mix, seed=self._bench.seed, max_tokens=16)
        first = self._runs * 1_000_000
        plan = LoadPlan(self._server.url, arrivals, workload, addresses=_USERS, first_request=first, label=label)
        _say(label)
        run = run_load(plan)
        verdicts = ", ".join(f"{verdict} {count}" for verdict, count in run["verdicts"].items() if count)
        _say(f"{label}: {verdicts}; goodput {run['goodput']:.3g}/s, /health p99 {run['health_s']['p99'] * 1000:.0f} ms")
        return run


def _own_bytes(server: Server) -> int:
    return 0 if server.pid is None else sum(own_memory_by_name(server.pid).values())


def _show(bench: Benchmark, runs: dict[str, Figures], attacked: Attacked, seconds: float) -> None:
    rows = []
    for name, run in runs.items():
        verdicts, ttft, health = run["verdicts"], run["ttft_s"], run["health_s"]
        lost = verdicts["failed"], verdicts["expired"] + verdicts["gave_up"], verdicts["refused"]
        times = ttft["p50"], ttft["p99"], health["p99"], health["max"]
        rows.append([name, run["offered_rate"], run["goodput"], *lost, *times])
    columns = ["", "offered /s", "goodput /s", "failed", "too late", "refused"]
    columns += ["TTFT p50, s", "p99", "/health p99, s", "max"]
    bench.table("The users", columns, rows, "Goodput: answered within 2 s to the first token and 0.2 s a token.")
    told = [[*name.split(": "), count] for name, count in sorted(attacked.answers.items())]
    note = f"One of each kind, half a second between attempts. {_shares(runs['besieged'], attacked, seconds)}"
    bench.table("The attackers", ["kind", "answer", "times"], told, note)


def _shares(besieged: Figures, attacked: Attacked, seconds: float) -> str:
    """What of the machine was not the server's."""
    cores = len(os.sched_getaffinity(0))
    users = besieged["client_cpu_s"] / besieged["span_s"] / cores
    if attacked.cpu_s is None:
        return f"Of the machine's {cores} cores the users' clients took {users:.1%}."
    own = attacked.cpu_s / seconds / cores
    return f"Of the machine's {cores} cores the attackers themselves took {own:.1%}, the users' clients {users:.1%}."


def _promises(results: Figures) -> list[tuple[str, str, str, bool]]:
    """What must hold: its name, its bound, what was found, whether it holds."""
    alone, beside = results["alone"], results["besieged"]
    share = beside["goodput"] / alone["goodput"] * alone["offered_rate"] / beside["offered_rate"]
    health_s, failed = beside["health_s"]["p99"], beside["verdicts"]["failed"]
    grown, allowed = results["grown_bytes"], _most_bytes(AppConfig())
    before, left = results["before_bytes"], results["left_bytes"]
    most_left = f"{MOST_LEFT * before / MIB:.0f} MiB"
    return [
        (
            "the users' goodput beside their own alone",
            f">= {LEAST_GOODPUT:.0%}",
            f"{share:.0%}",
            share >= LEAST_GOODPUT,
        ),
        ("of the users' requests fail", "0", f"{failed} of {beside['sent']}", failed == 0),
        ("`/health`, p99", f"<= {MOST_HEALTH_S * 1000:.0f} ms", f"{health_s * 1000:.0f} ms", health_s <= MOST_HEALTH_S),
        ("all memory grows by", f"<= {allowed / MIB:.0f} MiB", f"{grown / MIB:.0f} MiB", grown <= allowed),
        ("own memory afterwards", f"<= {most_left}", f"{left / MIB:.0f} MiB", left <= MOST_LEFT * before),
    ]


def _most_bytes(config: AppConfig) -> int:
    """What the settings let requests take together: bodies, files, pictures while they are decoded, grammars."""
    bodies, files = config.ingress.max_body_bytes_in_flight, config.media.max_buffered_bytes
    return bodies + files + config.preprocessor.max_decode_bytes + config.engine.grammar_mib * MIB


def _answer(promises: list[tuple[str, str, str, bool]]) -> str:
    missed = [promise for promise, *_, kept in promises if not kept]
    told = "; ".join(f"{promise}: {found}" for promise, _, found, _ in promises)
    return f"{'Yes, missed: ' + ', '.join(missed) if missed else 'No'}. {told}."


@contextlib.contextmanager
def _silent_name_server() -> Iterator[str]:
    """Where questions are taken and never answered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.6", 0))
        yield f"127.0.0.6:{silent.getsockname()[1]}"


def _say(what: str) -> None:
    print(f"{time.monotonic() - _STARTED:6.0f} s  {what}", flush=True)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, help="of the siege")
    parser.add_argument("--load", type=float, default=0.3, help="part of the capacity that the users take")
    parser.add_argument("--rate", type=float, help="requests a second, in place of --load")
    parser.add_argument("--mix", default="mixed")
    parser.add_argument("--kinds", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--niceness", type=int, default=LOWEST, help="of the attackers")
    parser.add_argument("--url", help="a server that runs already, with ingress.client_address_header set")
    parser.add_argument("--env", nargs="*", default=list(BEST_ENV), help="of the server that is started")


if __name__ == "__main__":
    main()
