"""What does a 30 s clip cost by the frames taken a second, and by the number of users?

    python -m benchmarks frame_rates [--quick] [--fps 1 2 4 8] [--users 1 4 16 64] [--against monolith]

Clips of 374x374 pixels, each sent by one of N users who ask again as soon as they are answered, or when a refusal says
that they may; every clip is another file. About 12 s a cell.
"""

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import ClosedLoop
from benchmarks.kit.load.media import MediaSpec
from benchmarks.kit.load.outcome import Slo
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.peers import chosen, server_options
from benchmarks.kit.servers import Server
from benchmarks.kit.turns import Figures, Turns

QUESTION = "A 30 s clip of 374x374: what do more frames a second and more users cost?"
_COLUMNS = (
    "server",
    "fps",
    "users",
    "prompt tokens",
    "answered /s",
    "frames /s",
    "TTFT p50 s",
    "e2e p50 s",
    "e2e p99 s",
)

Cell = tuple[str, float, int]
"""Server, frames a second, users."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("frame_rates", QUESTION, argv, _options)
    args = bench.args
    rates = args.fps or ([1.0, 8.0] if bench.quick else [1.0, 2.0, 4.0, 8.0])
    users = args.users or ([1, 8] if bench.quick else [1, 4, 16, 64])
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(server) for server in chosen(args)]
        turns = Turns(servers, args.timeout, Slo())
        for server in servers:
            turns.run(server, _workload(bench, rates[0]), ClosedLoop(1, 3.0), "warm-up")
        cells: dict[Cell, Figures] = {
            (server.name, fps, number): _measure(bench, turns, server, fps, number)
            for number in users
            for fps in rates
            for server in servers
        }
    _show(bench, rates, users, cells)
    results = {f"{name}, {fps:g} fps, {number} users": figures for (name, fps, number), figures in cells.items()}
    return bench.finish(_answer(servers[0].name, rates, users, cells), {"cells": results})


def _measure(bench: Benchmark, turns: Turns, server: Server, fps: float, users: int) -> Figures:
    duration_s = bench.args.duration or (2.0 if bench.quick else 5.0)
    return turns.run(server, _workload(bench, fps), ClosedLoop(users, duration_s), f"{fps:g} fps, {users} users")


def _workload(bench: Benchmark, fps: float) -> WorkloadSpec:
    options = (("mm_processor_kwargs", {"fps": fps}),)
    return WorkloadSpec(mix=f"{bench.args.clip}=1", seed=bench.seed, max_tokens=bench.args.max_tokens, options=options)


def _show(bench: Benchmark, rates: Sequence[float], users: Sequence[int], cells: dict[Cell, Figures]) -> None:
    seconds = MediaSpec.parse(bench.args.clip).seconds
    rows = [_row(cell, figures, seconds) for cell, figures in cells.items()]
    refused = sum(figures["verdicts"]["refused"] for figures in cells.values())
    rest = sum(figures["sent"] - figures["verdicts"]["answered"] for figures in cells.values()) - refused
    note = (
        f"Answers of {bench.args.max_tokens} tokens. Latencies count from the first time that a user asked; {refused}"
        f" times one was asked to come back later, {rest} requests ended in another way than an answer."
    )
    bench.table(f"{bench.args.clip} by frames a second and users", _COLUMNS, rows, note)
    first = rows[0][0]
    series = {
        f"{number} user{'s' * (number > 1)}": [cells[str(first), fps, number]["e2e_s"]["p50"] for fps in rates]
        for number in users
    }
    labels = {"x_label": "frames taken a second of video", "y_label": "e2e p50, s"}
    bench.plot(
        "lines", f"{first}: latency of one clip, {bench.args.clip}", rates, series, log_x=True, log_y=True, **labels
    )


def _row(cell: Cell, figures: Figures, seconds: float) -> list[object]:
    name, fps, users = cell
    tokens = figures["kinds"].get("video", {}).get("prompt_tokens")
    rate = figures["answered_rate"]
    latencies = [figures["ttft_s"]["p50"], figures["e2e_s"]["p50"], figures["e2e_s"]["p99"]]
    return [name, fps, users, None if tokens is None else round(tokens), rate, rate * fps * seconds, *latencies]


def _answer(name: str, rates: Sequence[float], users: Sequence[int], cells: dict[Cell, Figures]) -> str:
    few, many = (cells[name, fps, users[0]] for fps in (rates[0], rates[-1]))
    crowd = cells[name, rates[0], users[-1]]
    few_s, many_s = few["e2e_s"]["p50"], many["e2e_s"]["p50"]
    costs = (
        ""
        if not (few_s and many_s)
        else f" {rates[-1] / rates[0]:g} times the frames take {many_s / few_s:.1f} times as long;"
    )
    return (
        f"{name}, one user: {few_s or 0:.2f} s at {rates[0]:g} fps, {many_s or 0:.2f} s at {rates[-1]:g};{costs}"
        f" {users[-1]} users are answered {crowd['answered_rate']:.1f} clips/s at {rates[0]:g} fps."
    )


def _options(parser: argparse.ArgumentParser) -> None:
    server_options(parser, ())
    parser.add_argument("--clip", default="374x374@30s", help="size and length")
    parser.add_argument("--fps", nargs="+", type=float, help="frames taken a second of video")
    parser.add_argument("--users", nargs="+", type=int, help="requests under way at once")
    parser.add_argument("--duration", type=float, help="seconds of each cell, until the last request is sent")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds after which a client gives up")
    parser.add_argument("--max-tokens", type=int, default=16)


if __name__ == "__main__":
    main()
