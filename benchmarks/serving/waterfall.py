"""Where does the time of one request go, from the client's first byte to its last?

    python -m benchmarks waterfall [--quick] [--mix text 1080p] [--users 1 4] [--long] [--config FILE]
        [--env NAME=VALUE]

Starts the application with a clock at every door (`traced.py`). Every instant between sending and the last byte
belongs to exactly one of: a stage's own work, its waiting for one of its threads, the hand-off to a stage (queueing for
its slot included) and back, the ingress, and HTTP with Serve's proxy. So the parts of a request add up to its latency.
`--long`: of a minute of 1080p besides, whose stages work side by side (`overlap.py`).
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.client import ChatClient
from benchmarks.kit.load.drive import client_session, served_model
from benchmarks.kit.load.workload import Workload, WorkloadSpec
from benchmarks.kit.processes import cpu_s_by_name
from benchmarks.kit.servers import Server, sluice
from benchmarks.kit.timeline import PARTS, Parts, model_phases, parts_of, read_trace
from benchmarks.serving.overlap import said_of, side_by_side

QUESTION = "Where does the time of a request go: each stage's own work, waiting, hand-offs, HTTP?"
STAGES = ("HTTP", "Ingress", "MediaFetcher", "VideoDecoder", "Preprocessor", "Model")
_REQUESTS_APART = 1_000_000
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Case:
    """One table: requests of one sort, a number of users at once."""

    mix: str
    users: int
    requests: int

    @property
    def title(self) -> str:
        return f"{self.mix}, " + ("one at a time" if self.users == 1 else f"{self.users} at a time")

    @property
    def short(self) -> str:
        return self.mix if self.users == 1 else f"{self.users} x {self.mix}"


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as its client saw it; seconds of the monotonic clock."""

    id: str
    sent_s: float
    ended_s: float


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("waterfall", QUESTION, argv, _options)
    args = bench.args
    requests = args.requests or (8 if bench.quick else 40)
    cases = [Case(mix, users, requests) for users in args.users for mix in args.mix]
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace"
        env = dict(pair.split("=", 1) for pair in args.env) | {"SLUICE_TRACE": str(trace)}
        server = sluice(args.model, config=args.config, import_path="benchmarks.kit.traced:build", env=env)
        with server:
            results = {
                case.title: measure(bench, server, trace, case, number) for number, case in enumerate(cases, start=1)
            }
    _show_overview(bench, cases, results)
    answer, figures = _answer(cases, results), {"cases": results}
    if args.long:
        figures["overlap"] = side_by_side(bench, args.model, args.config)
        answer += " " + said_of(figures["overlap"])
    return bench.finish(answer, figures)


def measure(bench: Benchmark, server: Server, trace: Path, case: Case, number: int) -> dict[str, Any]:
    """Seconds of each part, means over the middle half of the requests by latency; and the processes' CPU time."""
    spec = WorkloadSpec(mix=case.mix, seed=bench.seed, max_tokens=bench.args.max_tokens)
    first = number * _REQUESTS_APART
    asyncio.run(ask(server.url, replace(case, requests=_WARM_UP * case.users), spec, first))
    cpu = cpu_s_by_name(server.pid or 0)
    sent = asyncio.run(ask(server.url, case, spec, first + _REQUESTS_APART // 2))
    used = {name: seconds - cpu.get(name, 0.0) for name, seconds in cpu_s_by_name(server.pid or 0).items()}
    events = read_trace(trace)
    found = [(request, parts_of(request.sent_s, request.ended_s, events[request.id])) for request in sent]
    middle = _middle_half(found)
    phases = [model_phases(events[request.id]) for request, _ in middle]
    figures = {
        "requests": len(found),
        "e2e_s": statistics.fmean(request.ended_s - request.sent_s for request, _ in middle),
        "e2e_p50_s": statistics.median(request.ended_s - request.sent_s for request, _ in found),
        "parts_s": _means([parts for _, parts in middle]),
        "model_s": {phase: statistics.fmean(told[phase] for told in phases) for phase in phases[0]},
        "cpu_s": {name: seconds / len(found) for name, seconds in used.items() if seconds / len(found) > 0.0005},
    }
    _show(bench, case, figures)
    return figures


async def ask(url: str, case: Case, spec: WorkloadSpec, first: int) -> list[Sent]:
    """Send the case's requests; `case.users` of them are under way at any time. Raises when one is not answered."""
    sent: list[Sent] = []
    async with client_session() as session:
        workload = Workload(spec, await served_model(session, url), None, first)
        client = ChatClient(session, url, 0.0, 120.0)

        async def user() -> None:
            for _ in range(-(-case.requests // case.users)):
                request_id = f"waterfall-{first}-{len(sent)}-{time.monotonic_ns()}"
                request, began = workload.next(), time.monotonic()
                outcome = await replace(client, request_id=request_id).ask(request, began)
                if outcome.verdict != "answered":
                    raise RuntimeError(f"a request was not answered: {outcome.reason}")
                sent.append(Sent(request_id, began, time.monotonic()))

        async with asyncio.TaskGroup() as users:
            for _ in range(case.users):
                users.create_task(user())
    return sent


def _middle_half(found: list[tuple[Sent, Parts]]) -> list[tuple[Sent, Parts]]:
    """Outliers say what the machine did meanwhile; the means of the rest add up, which medians would not."""
    ordered = sorted(found, key=lambda pair: pair[0].ended_s - pair[0].sent_s)
    quarter = len(ordered) // 4
    return ordered[quarter : len(ordered) - quarter]


def _means(all_parts: Sequence[Parts]) -> dict[str, dict[str, float]]:
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for parts in all_parts:
        for (stage, part), seconds in parts.items():
            sums[stage][part] += seconds / len(all_parts)
    return {stage: dict(parts) for stage, parts in sums.items()}


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _show(bench: Benchmark, case: Case, figures: dict[str, Any]) -> None:
    total = figures["e2e_s"]
    rows: list[list[object]] = []
    for stage in STAGES:
        parts = figures["parts_s"].get(stage)
        if parts:
            whole = sum(parts.values())
            shown = [parts[part] * 1e3 if part in parts else None for part in PARTS]
            rows.append([stage, *shown, whole * 1e3, f"{whole / total:.0%}"])
    sums = [sum(parts.get(part, 0.0) for parts in figures["parts_s"].values()) for part in PARTS]
    rows.append(["all", *(seconds * 1e3 for seconds in sums), total * 1e3, "100%"])
    rows.append(["share", *(f"{seconds / total:.0%}" for seconds in sums), "", ""])
    cpu = sorted(figures["cpu_s"].items(), key=lambda pair: -pair[1])
    listed = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in cpu[:8])
    phases = ", ".join(f"{phase} {seconds * 1e3:.1f}" for phase, seconds in figures["model_s"].items())
    note = (
        f"Milliseconds, means of the middle half of {figures['requests']} requests by latency;"
        f" the median latency of all is {figures['e2e_p50_s'] * 1e3:.1f} ms. The model: {phases}."
        f" CPU ms a request: {listed}."
    )
    bench.table(case.title, ["stage", *PARTS, "in all", "share"], rows, note)


def _summed(figures: dict[str, Any]) -> tuple[float, float, float]:
    """Seconds of the model's own work, of the media stages' own, and of all that lies between: HTTP, ingress, hops."""
    own = {stage: parts.get("own work", 0.0) for stage, parts in figures["parts_s"].items()}
    media = sum(own.get(stage, 0.0) for stage in STAGES[2:-1])
    return own["Model"], media, figures["e2e_s"] - own["Model"] - media


def _show_overview(bench: Benchmark, cases: Sequence[Case], results: dict[str, dict[str, Any]]) -> None:
    rows: list[list[object]] = []
    for title, figures in results.items():
        rows.append([title, figures["e2e_s"] * 1e3, *(seconds * 1e3 for seconds in _summed(figures))])
    columns = ["requests", "latency ms", "the model's own", "media stages' own", "between: HTTP, ingress, hand-offs"]
    bench.table("In short", columns, rows)
    shares: dict[str, list[float]] = {}
    for stage in STAGES:
        name = stage if stage in ("HTTP", "Ingress") else f"{stage}: own work"
        shares[name] = [figures["parts_s"].get(stage, {}).get("own work", 0.0) for figures in results.values()]
    for part in PARTS[1:]:
        shares[part] = [
            sum(parts.get(part, 0.0) for parts in figures["parts_s"].values()) for figures in results.values()
        ]
    latencies = [figures["e2e_s"] for figures in results.values()]
    percent = {
        name: [100 * seconds / whole for seconds, whole in zip(values, latencies, strict=True)]
        for name, values in shares.items()
    }
    seen = {name: values for name, values in percent.items() if max(values) >= 0.5}
    bench.plot(
        "stacked", "Where the time of a request goes", [case.short for case in cases], seen, y_label="% of the latency"
    )


def _answer(cases: Sequence[Case], results: dict[str, dict[str, Any]]) -> str:
    sentences = []
    for case in cases:
        figures = results[case.title]
        model, media, between = (f"{seconds * 1e3:.0f}" for seconds in _summed(figures))
        said = f"{case.title}: {figures['e2e_s'] * 1e3:.0f} ms = the model's own {model}"
        sentences.append(f"{said} + media stages {media} + HTTP, ingress and hand-offs {between}")
    return "; ".join(sentences) + "."


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="demo", help="checkpoint to serve")
    parser.add_argument(
        "--mix", nargs="+", default=["text", "640x480", "360p", "1080p"], help="as of benchmarks.serving.serve"
    )
    parser.add_argument("--users", nargs="+", type=int, default=[1], help="requests under way at once; several: each")
    parser.add_argument("--requests", type=int, help="of each case")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--config", type=Path, help="of the application, instead of serve_config.yaml")
    parser.add_argument("--long", action="store_true", help="a minute of 1080p too, in groups and whole")
    parser.add_argument("--env", nargs="*", default=[], metavar="NAME=VALUE", help="for the application")


if __name__ == "__main__":
    main()
