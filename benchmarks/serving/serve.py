"""How much does a server answer in time, and what happens beyond that? Sluice against any OpenAI-compatible server.

    python -m benchmarks serve                                    Sluice and the monolith, both started here
    python -m benchmarks serve --model DIR --against monolith transformers vllm=/path/to/bin/vllm
    python -m benchmarks serve --url http://host:8000 --against other=http://host:8201

For each mix of requests: what one answer takes at idle, what 16 users get answered (the capacity), and what comes of
Poisson arrivals at multiples of the first server's capacity. The servers take turns at every step of one run. A mix and
a server take about two minutes, half a minute with `--quick`; a server that must be started again takes its time.
"""

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import Arrivals, ClosedLoop, OpenLoop
from benchmarks.kit.load.outcome import Slo
from benchmarks.kit.load.workload import MIXES, WorkloadSpec
from benchmarks.kit.peers import chosen, server_options
from benchmarks.kit.servers import Server
from benchmarks.kit.turns import Figures, Turns, for_each

QUESTION = "How many requests are answered in time, below and beyond capacity?"
_WARM_UP = ClosedLoop(2, 3.0)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("serve", QUESTION, argv, _options)
    args = bench.args
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(server) for server in chosen(args)]
        session = Session(bench, servers)
        mixes = args.mix or (["mixed"] if bench.quick else ["mixed", "1080p"])
        results = {mix: session.measure(mix) for mix in mixes}
    return bench.finish(_answer(results, [server.name for server in servers]), {"mixes": results})


class Session:
    """What every step of the run does to each of the servers."""

    def __init__(self, bench: Benchmark, servers: Sequence[Server]) -> None:
        args = bench.args
        self._bench, self._servers = bench, servers
        self._turns = Turns(servers, args.timeout, Slo(args.slo_ttft, args.slo_itl))
        self._duration_s = args.duration or (3.0 if bench.quick else 8.0)
        self._factors = args.load or ([3.0] if bench.quick else [0.5, 1.0, 2.0, 5.0])
        self._idle_cpu = self._turns.idle_cpu()

    def measure(self, mix: str) -> dict[str, Any]:
        """Idle, capacity, and each multiple of it; tables and plots on the way."""
        workload, duration_s = _workload(self._bench.args, mix), self._duration_s

        def step(arrivals: Arrivals, label: str) -> dict[str, Figures]:
            return for_each(self._servers, lambda s: self._turns.run(s, workload, arrivals, f"{mix}, {label}"))

        step(_WARM_UP, "warm-up")
        idle = step(ClosedLoop(1, duration_s), "idle")
        full = step(ClosedLoop(self._bench.args.users, duration_s), "capacity")
        self._show_idle(mix, idle, full)
        capacity = full[self._servers[0].name]["answered_rate"]
        rates = self._bench.args.rate or [factor * capacity for factor in self._factors]
        steps = [step(OpenLoop(rate, duration_s), f"{rate:.3g}/s") for rate in rates]
        loaded = {server.name: [found[server.name] for found in steps] for server in self._servers}
        self._show_loaded(mix, rates, loaded)
        return {"idle": idle, "capacity": full, "rates": rates, "loaded": loaded}

    def _show_idle(self, mix: str, idle: dict[str, Figures], full: dict[str, Figures]) -> None:
        kinds = sorted({kind for figures in idle.values() for kind in figures["kinds"]})
        columns = ["server", *(f"{kind}: e2e p50 s, prompt tokens" for kind in kinds)]
        rows: list[list[object]] = []
        for name, figures in idle.items():
            seen = [_seen_at_idle(figures["kinds"].get(kind)) for kind in kinds]
            rows.append(
                [name, *seen, full[name]["answered_rate"], full[name].get("cpu_s_per_answer"), self._idle_cpu.get(name)]
            )
        columns += ["answered /s at capacity", "CPU s an answer", "CPU s/s when idle"]
        note = (
            f"One request at a time, then {self._bench.args.users} users. All of the servers run all the time, so each"
            " also pays for what the others use when idle."
        )
        self._bench.table(f"{mix}: at idle and at capacity", columns, rows, note)

    def _show_loaded(self, mix: str, rates: Sequence[float], loaded: dict[str, list[Figures]]) -> None:
        rows = [_loaded_row(name, rate, loaded[name][place]) for place, rate in enumerate(rates) for name in loaded]
        args = self._bench.args
        note = (
            f"Poisson arrivals for {self._duration_s:g} s a row; goodput: answered with a TTFT below {args.slo_ttft:g}"
            f" s and an ITL below {args.slo_itl:g} s; clients give up after {args.timeout:g} s. Latencies in seconds."
            f" {self._turns.facts()}"
        )
        self._bench.table(f"{mix}: under load", _LOADED_COLUMNS, rows, note)
        for figure, label in (("goodput", "goodput /s"), ("health", "/health p99 s")):
            series = {
                name: [run["health_s"]["p99"] if figure == "health" else run[figure] for run in runs]
                for name, runs in loaded.items()
            }
            title = f"{mix}: {label.removesuffix(' s').removesuffix(' /s')} under load"
            log = figure == "health"
            self._bench.plot("lines", title, rates, series, x_label="offered /s", y_label=label, log_y=log)


_LOADED_COLUMNS = (
    "offered /s",
    "server",
    "goodput /s",
    "answered",
    "refused",
    "gave up",
    "failed",
    "TTFT p50",
    "TTFT p99",
    "e2e p50",
    "e2e p99",
    "ITL p50",
    "/health p99",
    "/health failed",
)


def _loaded_row(name: str, rate: float, figures: Figures) -> list[object]:
    verdicts = figures["verdicts"]
    return [
        rate,
        name,
        figures["goodput"],
        verdicts["answered"],
        verdicts["refused"],
        verdicts["gave_up"] + verdicts["expired"],
        verdicts["failed"],
        figures["ttft_s"]["p50"],
        figures["ttft_s"]["p99"],
        figures["e2e_s"]["p50"],
        figures["e2e_s"]["p99"],
        figures["itl_s"]["p50"],
        figures["health_s"]["p99"],
        figures["health_failed"],
    ]


def _seen_at_idle(kind: Figures | None) -> str:
    """A dash for a kind of which none was answered; no tokens for a server that does not tell them."""
    if kind is None:
        return "–"
    tokens = f", {kind['prompt_tokens']:.0f}" if kind["prompt_tokens"] else ""
    return f"{kind['e2e_s']['p50']:.3g}{tokens}"


def _answer(results: dict[str, Any], names: Sequence[str]) -> str:
    """The best goodput of each server on each mix, in a sentence."""
    sentences = []
    for mix, figures in results.items():
        best = {name: max(run["goodput"] for run in figures["loaded"][name]) for name in names}
        listed = ", ".join(f"{name} {goodput:.1f}" for name, goodput in best.items())
        last = {name: figures["loaded"][name][-1]["goodput"] for name in names}
        beyond = ", ".join(f"{name} {goodput:.1f}" for name, goodput in last.items())
        sentences.append(f"{mix}: best goodput {listed} requests/s; at {figures['rates'][-1]:.0f}/s offered {beyond}.")
    return " ".join(sentences)


def _workload(args: argparse.Namespace, mix: str) -> WorkloadSpec:
    return WorkloadSpec(
        mix=mix,
        seed=args.seed,
        max_tokens=args.max_tokens,
        exact_length=not args.own_length,
        transport=args.transport,
        distinct_media=not args.repeat_media,
    )


def _options(parser: argparse.ArgumentParser) -> None:
    server_options(parser, ("monolith",))
    parser.add_argument("--mix", nargs="+", help=f"{', '.join(MIXES)}, or shares: text=0.5,360p@5s=0.5")
    parser.add_argument("--load", nargs="+", type=float, help="offered load in multiples of the first one's capacity")
    parser.add_argument("--rate", nargs="+", type=float, help="offered load in requests a second instead")
    parser.add_argument("--users", type=int, default=16, help="concurrency at which capacity is measured")
    parser.add_argument("--duration", type=float, help="seconds of each run")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds after which a client gives up")
    parser.add_argument("--slo-ttft", type=float, default=2.0)
    parser.add_argument("--slo-itl", type=float, default=0.2)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--own-length", action="store_true", help="let answers end by themselves: no `ignore_eos`")
    parser.add_argument("--transport", choices=["data", "url"], default="data", help="how media are sent")
    parser.add_argument("--repeat-media", action="store_true", help="few files again and again, which caches may know")


if __name__ == "__main__":
    main()
