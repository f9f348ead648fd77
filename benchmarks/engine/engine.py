"""The engine alone, on a CPU: what batching gains, and what a long prompt costs those who decode meanwhile.

    python -m benchmarks engine [--quick] [--threads 1]

Ceiling of the first table: a decode step reads every weight once whatever the batch, so that tokens/s grow with the
batch until arithmetic, not reading and Python, takes the time. All tables use the built-in model in float32.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.kit.engine_load import Clock, Prompt, clip_prompt, submit, text_prompt
from benchmarks.kit.harness import Benchmark
from deployments.config import AppConfig, EngineConfig
from deployments.model.engine.engine import Engine
from deployments.model.loading import build_engine, freeze_heap
from deployments.model.weights import load_model, pick_device
from deployments.observability.metrics import RecordingSink
from deployments.types import PixelNorm

_COLUMNS = [
    "prompt",
    "idle p50 ms",
    "idle p99 ms",
    "beside p50 ms",
    "beside p99 ms",
    "p99 beside / idle",
    "first token ms",
    "prompt tokens/s",
]
AT_ONCE_S = 60.0
RUNNING = 8
"""Answers under way while a long prompt comes in."""


@dataclass(frozen=True)
class Beside:
    """Times between tokens (ms) of running answers without and with a long prompt beside them, and its own time."""

    idle_ms: list[float]
    beside_ms: list[float]
    first_token_s: float


def decode_rate(model: Any, batch: int, steps: int, seed: int) -> tuple[float, float]:
    """Tokens/s and ms/step of `batch` answers that decode together."""
    config = EngineConfig(max_running=batch, kv_cache_gib=0.2, max_context_tokens=1024)
    engine = build_engine(model, config, RecordingSink())
    rng = np.random.default_rng(seed)
    clocks = [submit(engine, text_prompt(rng, 40), steps + 8) for _ in range(batch)]
    while min(len(clock.instants) for clock in clocks) < 4:
        engine.step()
    began = time.perf_counter()
    for _ in range(steps):
        engine.step()
    elapsed = time.perf_counter() - began
    return batch * steps / elapsed, 1e3 * elapsed / steps


def beside_prompt(model: Any, prompt: Prompt, seed: int, *, target_itl_s: float, running: int = RUNNING) -> Beside:
    """`running` answers decode; then a long prompt comes: all at once with `AT_ONCE_S`."""
    tokens = len(prompt[0])
    config = EngineConfig(
        max_running=running + 1,
        kv_cache_gib=0.4,
        max_context_tokens=tokens + 64,
        target_itl_s=target_itl_s,
        prefill_chunk_tokens=tokens if target_itl_s == AT_ONCE_S else 512,
    )
    engine = build_engine(model, config, RecordingSink())
    gc.collect()
    rng = np.random.default_rng(seed)
    clocks = [submit(engine, text_prompt(rng, 40), tokens) for _ in range(running)]
    while min((len(clock.instants) for clock in clocks), default=10) < 10:
        engine.step()
    idle_from = time.perf_counter()
    for _ in range(150 if running else 0):
        engine.step()
    idle_to = time.perf_counter()
    long = submit(engine, prompt, 1)
    while not long.instants:
        engine.step()
    if running:
        engine.step()
    return Beside(
        _gaps(clocks, idle_from, idle_to), _gaps(clocks, idle_to, time.perf_counter()), long.instants[0] - idle_to
    )


def _gaps(clocks: list[Clock], start: float, end: float) -> list[float]:
    return [gap for clock in clocks for gap in clock.gaps_ms(start, end)]


def p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the forward pass")


def main(argv: Sequence[str] | None = None) -> None:
    bench = Benchmark("engine", "What does batching gain, and what does a long prompt cost?", argv, _options)
    torch.set_num_threads(bench.args.threads)
    model = load_model(AppConfig(), pick_device("cpu"))
    freeze_heap()  # as a replica does
    rounds = 3 if bench.quick else 7
    rates = _batches(bench, model, rounds)
    ratios = _prompts(bench, model, rounds)
    _handoff(bench, model, rounds)
    second_turn = _turns(bench, model, rounds)
    text, clip = ratios["text"], ratios["clip"]
    bench.finish(
        f"Batch 16 decodes {rates[16] / rates[1]:.1f} times the tokens/s of batch 1; beside a long prompt the p99 ITL "
        f"is {text:.1f} (text) and {clip:.1f} (clip) times its idle value.",
        {
            "tokens_per_s": {str(batch): rate for batch, rate in rates.items()},
            "itl_p99_ratio": ratios,
            "second_turn_ttft_ms": second_turn,
        },
    )


def _batches(bench: Benchmark, model: Any, rounds: int) -> dict[int, float]:
    batches = (1, 4, 16) if bench.quick else (1, 2, 4, 8, 16, 32)
    steps = 40 if bench.quick else 100
    runs: dict[int, list[tuple[float, float]]] = {batch: [] for batch in batches}
    for _ in tqdm(range(rounds), desc="batch scaling"):
        for batch in batches:
            runs[batch].append(decode_rate(model, batch, steps, bench.seed))
    rates = {batch: statistics.median(rate for rate, _ in found) for batch, found in runs.items()}
    rows = [
        [batch, rates[batch], statistics.median(ms for _, ms in found), rates[batch] / rates[1]]
        for batch, found in runs.items()
    ]
    bench.table("Decode by batch size", ["batch", "tokens/s", "ms/step", "x batch 1"], rows)
    return rates


def _prompts(bench: Benchmark, model: Any, rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(bench.seed)
    tokens, frames = (1000, 16) if bench.quick else (4000, 64)
    prompts = {"text": text_prompt(rng, tokens), "clip": clip_prompt(model.config, rng, (frames, 12, 12))}
    paced = EngineConfig().target_itl_s
    ways: dict[str, dict[str, Any]] = {
        "in portions": {"target_itl_s": paced},
        "at once": {"target_itl_s": AT_ONCE_S},
        "nobody decodes": {"target_itl_s": paced, "running": 0},
    }
    runs: dict[tuple[str, str], list[Beside]] = {(kind, way): [] for kind in prompts for way in ways}
    for _ in tqdm(range(rounds), desc="long prompts"):
        for (kind, way), found in runs.items():
            found.append(beside_prompt(model, prompts[kind], bench.seed, **ways[way]))
    rows, ratios = [], {}
    for (kind, way), found in runs.items():
        figures: list[float | None] = [None] * 5
        if ways[way].get("running", RUNNING):
            ratio = statistics.median(p99(run.beside_ms) / p99(run.idle_ms) for run in found)
            sides = [[run.idle_ms for run in found], [run.beside_ms for run in found]]
            figures = [statistics.median(map(measure, side)) for side in sides for measure in (statistics.median, p99)]
            figures.append(ratio)
            ratios[kind if way == "in portions" else f"{kind}, {way}"] = ratio
        seconds = statistics.median(run.first_token_s for run in found)
        rows.append([f"{kind}, {way}", *figures, 1e3 * seconds, len(prompts[kind][0]) / seconds])
    bench.table(
        f"ITL of {RUNNING} answers beside a prompt of {tokens} tokens, or with a clip of {2 * frames} frames",
        _COLUMNS,
        rows,
        f"In portions: a step with a part of the prompt aims at {paced} s. The clip's prompt has "
        f"{len(prompts['clip'][0])} tokens, and {frames} x 144 patches to encode.",
    )
    return ratios


def _handoff(bench: Benchmark, model: Any, rounds: int) -> None:
    """The same clip's patches as float32 and as uint8: their bytes, one copy of them as between two stages, and the
    time to the first token, the normalisation included where it is still to be done."""
    ids, tensors = clip_prompt(model.config, np.random.default_rng(bench.seed), (16 if bench.quick else 64, 12, 12))
    name = "pixel_values_videos"
    raw = np.random.default_rng(bench.seed).integers(0, 256, tensors[name].shape, np.uint8)
    norm = PixelNorm(1 / 255, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), "flat_channel_major")
    ways = {"float32": ({**tensors}, None), "uint8": ({**tensors, name: raw}, norm)}
    engine = build_engine(model, EngineConfig(max_running=1, max_context_tokens=len(ids) + 8), RecordingSink())
    runs: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in tqdm(range(rounds), desc="hand-off"):
        for way, (given, pixel_norm) in ways.items():
            began = time.perf_counter()
            handed = {**given, name: given[name].copy()}
            copied = time.perf_counter()
            clock = submit(engine, (ids, handed), 1, pixel_norm)
            while not clock.instants:
                engine.step()
            runs[way].append((1e3 * (copied - began), 1e3 * (clock.instants[0] - copied)))
    rows = []
    for way, (given, _) in ways.items():
        copies, answers = zip(*runs[way], strict=True)
        rows.append([way, given[name].nbytes / 2**20, statistics.median(copies), statistics.median(answers)])
    bench.table("A clip's patches handed to the model", ["patches", "MiB", "one copy ms", "first token ms"], rows)


def _turns(bench: Benchmark, model: Any, rounds: int) -> dict[str, float]:
    """A conversation of two turns about one clip: the time to the second one's first token, ms, by what is kept. Where
    encoder outputs are, the first turn pays for a digest and a copy, the second one for the digest."""
    frames = 16 if bench.quick else 64
    runs: dict[str, list[tuple[float, float]]] = {"encoded again": [], "kept": []}
    engines = {
        way: build_engine(
            model, EngineConfig(max_running=1, max_context_tokens=4096, reuse_cache_mib=mib), RecordingSink()
        )
        for way, mib in zip(runs, (0.0, 16.0), strict=True)
    }
    for number in tqdm(range(rounds), desc="turns"):
        rng = np.random.default_rng((bench.seed, number))
        ids, tensors = clip_prompt(model.config, rng, (frames, 12, 12))
        longer = np.append(ids, rng.integers(20, 250, size=40).astype(np.int32))
        for way, engine in engines.items():
            runs[way].append((_first_token_ms(engine, (ids, tensors)), _first_token_ms(engine, (longer, tensors))))
    medians = {way: [statistics.median(turn) for turn in zip(*found, strict=True)] for way, found in runs.items()}
    bench.table(
        f"Two turns about one clip of {2 * frames} frames",
        ["encoder outputs", "first turn's first token ms", "second turn's first token ms"],
        [[way, *turns] for way, turns in medians.items()],
    )
    return {way: second for way, (_, second) in medians.items()}


def _first_token_ms(engine: Engine, prompt: Prompt) -> float:
    began = time.perf_counter()
    clock = submit(engine, prompt, 1)
    while engine.busy:
        engine.step()
    return 1e3 * (clock.instants[0] - began)


if __name__ == "__main__":
    main()
