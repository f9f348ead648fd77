"""A small real model on a CPU, as on a laptop: how many tokens a second, and how long until the first one?

    python -m benchmarks laptop [--quick] [--shape SmolVLM-256M Qwen3-VL-2B] [--against monolith vllm=/path/to/bin/vllm]

Random weights in the shapes of published models (`benchmarks.kit.shapes`), made in a temporary folder: 1 GB and 9 GB in
float32. For each shape and server: texts by one user and by eight, then a picture and, where the model takes them, a
clip by one user. Servers run one after the other, since the larger weights fit into 16 GB only once. The monolith is
transformers' own `generate` behind a lock. All compute in `--dtype`: bfloat16 pays only on a CPU that has instructions
for it, and is the default there.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import ClosedLoop
from benchmarks.kit.load.outcome import Slo
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.peers import peer
from benchmarks.kit.servers import Server, sluice
from benchmarks.kit.shapes import SHAPES, Shape
from benchmarks.kit.turns import Figures, Turns

QUESTION = (
    "On a CPU: how many tokens a second has a small model for one user and for eight, and how soon the first one?"
)
USERS = (1, 8)
GIVES_UP_S = 300.0
SETTINGS = {"placement": "together", "engine": {"max_context_tokens": 4096}}
"""As few processes as there can be; and as vLLM is started, since what a context may be takes memory."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("laptop", QUESTION, argv, _options)
    args = bench.args
    names = args.shape or (["SmolVLM-256M"] if bench.quick else list(SHAPES))
    results: dict[str, dict[str, Any]] = {}
    for shape in (SHAPES[name] for name in names):
        with tempfile.TemporaryDirectory(prefix="sluice-shape-") as folder:
            shape.save(Path(folder), getattr(torch, args.dtype))
            servers = [_own(folder, args.dtype), *(peer(other, folder, args.dtype) for other in args.against)]
            results[shape.name] = {server.name: _measured(bench, server, shape) for server in servers}
        _show(bench, shape, results[shape.name])
    return bench.finish(_answer(results), {"dtype": args.dtype, "shapes": results})


def best_dtype(cpu_flags: str) -> str:
    """By what `/proc/cpuinfo` says of a CPU: float32 unless it multiplies matrices of bfloat16 itself."""
    return "bfloat16" if {"amx_bf16", "avx512_bf16"}.intersection(cpu_flags.split()) else "float32"


def _own(folder: str, dtype: str) -> Server:
    return sluice(folder, args={**SETTINGS, "dtype": dtype}, launcher=True)


def _measured(bench: Benchmark, server: Server, shape: Shape) -> dict[str, Figures]:
    """Of one server, which is started for it: texts by the number of users, then media by their names."""
    seconds = bench.args.duration or (4.0 if bench.quick else 30.0)
    text = WorkloadSpec(mix="text", seed=bench.seed, max_tokens=8 if bench.quick else 64)
    found: dict[str, Figures] = {}
    with server:
        turns = Turns([server], GIVES_UP_S, Slo(GIVES_UP_S, GIVES_UP_S))
        turns.run(server, text, ClosedLoop(1, 1.0), f"{shape.name}, warm-up")
        for users in USERS:
            found[_by(users)] = turns.run(server, text, ClosedLoop(users, seconds), f"{shape.name}, {_by(users)}")
        for medium in shape.media:
            asked = WorkloadSpec(mix=medium, seed=bench.seed, max_tokens=2)
            found[medium] = turns.run(server, asked, ClosedLoop(1, seconds), f"{shape.name}, {medium}")
        found["facts"] = {"said": turns.facts()}
    return found


def _by(users: int) -> str:
    return f"{users} user" + "s" * (users > 1)


def _show(bench: Benchmark, shape: Shape, found: dict[str, dict[str, Figures]]) -> None:
    columns = ["server", *(f"tokens/s, {_by(users)}" for users in USERS), "TTFT s of a text"]
    columns += [f"TTFT s of {medium}" for medium in shape.media]
    rows: list[list[object]] = []
    for name, runs in found.items():
        alone = [runs[medium]["ttft_s"]["p50"] for medium in shape.media]
        rates = [runs[_by(users)]["token_rate"] for users in USERS]
        rows.append([name, *rates, runs[_by(1)]["ttft_s"]["p50"], *alone])
    facts = " ".join(runs["facts"]["said"] for runs in found.values()).strip()
    bench.table(f"{shape.name}, {bench.args.dtype}", columns, rows, f"Medians; media are asked one at a time. {facts}")


def _answer(results: dict[str, dict[str, Any]]) -> str:
    said = []
    for shape, found in results.items():
        rates = (f"{name} {', '.join(_rate(runs, users) for users in USERS)}" for name, runs in found.items())
        said.append(f"{shape}: {'; '.join(rates)}.")
    return " ".join(said)


def _rate(runs: dict[str, Figures], users: int) -> str:
    return f"{runs[_by(users)]['token_rate']:.1f} tokens/s for {_by(users)}"


def _options(parser: argparse.ArgumentParser) -> None:
    info = Path("/proc/cpuinfo")
    flags = info.read_text(encoding="utf-8") if info.exists() else ""
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), help="default: all; of --quick: the smallest")
    parser.add_argument("--against", nargs="*", default=["monolith"], help="several or none, see peers.py")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default=best_dtype(flags))
    parser.add_argument("--duration", type=float, help="seconds of each run")


if __name__ == "__main__":
    main()
