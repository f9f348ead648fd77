"""At 5 to 100 requests a second, how many clients get an error, how soon do the others hear, and is `/health` heard?

    python -m benchmarks rates [--quick] [--rate 5 10 20 50 100] [--against monolith ...]

Poisson arrivals of 40 % texts, 30 % pictures and 30 % clips, from clients who give up after 10 s. An error is whatever
is not an answer: a refusal with its `Retry-After` counts as one too. About 20 s a rate and server.
"""

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import ClosedLoop, OpenLoop
from benchmarks.kit.load.outcome import Slo
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.peers import chosen, server_options
from benchmarks.kit.turns import Figures, Turns, for_each

QUESTION = "From 5 to 100 requests a second: how many errors, how soon a first token, is /health heard?"
_COLUMNS = (
    "offered /s",
    "server",
    "errors",
    "of them refused",
    "gave up",
    "failed",
    "answered /s",
    "TTFT p50 s",
    "TTFT p99 s",
    "/health p50 ms",
    "/health p99 ms",
    "/health failed",
)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("rates", QUESTION, argv, _options)
    args = bench.args
    rates = args.rate or ([50.0] if bench.quick else [5.0, 10.0, 20.0, 50.0, 100.0])
    workload = WorkloadSpec(mix=args.mix, seed=bench.seed, max_tokens=16, distinct_media=not args.repeat_media)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(server) for server in chosen(args)]
        turns = Turns(servers, args.timeout, Slo())
        for_each(servers, lambda s: turns.run(s, workload, ClosedLoop(2, 3.0), "warm-up"))
        steps = {rate: _step(bench, turns, workload, rate) for rate in rates}
        facts = turns.facts()
    found = {server.name: [step[server.name] for step in steps.values()] for server in servers}
    _show(bench, rates, found, facts)
    return bench.finish(_answer(rates, found), {"rates": rates, "servers": found})


def _step(bench: Benchmark, turns: Turns, workload: WorkloadSpec, rate: float) -> dict[str, Figures]:
    duration_s = bench.args.duration or (3.0 if bench.quick else 8.0)
    return for_each(turns.servers, lambda s: turns.run(s, workload, OpenLoop(rate, duration_s), f"{rate:g}/s"))


def _show(bench: Benchmark, rates: Sequence[float], found: dict[str, list[Figures]], facts: str) -> None:
    rows = [_row(rate, name, found[name][place]) for place, rate in enumerate(rates) for name in found]
    note = (
        f"Clients give up after {bench.args.timeout:g} s. /health is asked ten times a second, on its own connections."
    )
    bench.table("Errors, first tokens and /health by offered rate", _COLUMNS, rows, note)
    lines = {
        "errors, %": {name: [100 * error_rate(run) for run in runs] for name, runs in found.items()},
        "TTFT p50, s": {name: [run["ttft_s"]["p50"] for run in runs] for name, runs in found.items()},
        "/health p99, s": {name: [run["health_s"]["p99"] for run in runs] for name, runs in found.items()},
    }
    for label, series in lines.items():
        log_y = label != "errors, %"
        bench.plot("lines", label, rates, series, x_label="offered /s", y_label=label, log_x=True, log_y=log_y)


def error_rate(figures: Figures) -> float:
    return 1 - figures["verdicts"]["answered"] / max(1, figures["sent"])


def _row(rate: float, name: str, figures: Figures) -> list[object]:
    verdicts, health = figures["verdicts"], figures["health_s"]
    return [
        rate,
        name,
        f"{error_rate(figures):.0%}",
        verdicts["refused"],
        verdicts["gave_up"] + verdicts["expired"],
        verdicts["failed"],
        figures["answered_rate"],
        figures["ttft_s"]["p50"],
        figures["ttft_s"]["p99"],
        health["p50"] * 1e3,
        health["p99"] * 1e3,
        figures["health_failed"],
    ]


def _answer(rates: Sequence[float], found: dict[str, list[Figures]]) -> str:
    said = [_said(name, runs[-1]) for name, runs in found.items()]
    return f"At {rates[-1]:g} requests/s offered: " + "; ".join(said) + "."


def _said(name: str, last: Figures) -> str:
    heard = last["ttft_s"]["p50"]
    first = "nobody is answered" if heard is None else f"first token after {heard:.2f} s (median of the answered)"
    return (
        f"{name} answers {last['answered_rate']:.1f}/s, {error_rate(last):.0%} errors, {first},"
        f" /health p99 {last['health_s']['p99'] * 1e3:.0f} ms"
    )


def _options(parser: argparse.ArgumentParser) -> None:
    server_options(parser, ("monolith",))
    parser.add_argument("--mix", default="mixed", help="as of benchmarks.serving.serve")
    parser.add_argument("--repeat-media", action="store_true", help="few files again and again, which caches may know")
    parser.add_argument("--rate", nargs="+", type=float, help="requests a second")
    parser.add_argument("--duration", type=float, help="seconds of each run")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds after which a client gives up")


if __name__ == "__main__":
    main()
