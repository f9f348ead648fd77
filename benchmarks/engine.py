"""The engine alone, on a CPU: what batching gains, and what a long prefill costs those who decode.

    python -m benchmarks.engine [--quick] [--threads 1]

Ceiling of the first table: a decode step reads every weight once whatever the batch, so that tokens/s grow with the
batch until arithmetic, not reading and Python, takes the time. Both tables use the built-in model in float32.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.harness import Benchmark
from deployments.config import AppConfig, EngineConfig
from deployments.deadline import Deadline
from deployments.errors import SluiceError
from deployments.metrics import RecordingSink
from deployments.model.engine import Engine
from deployments.model.loading import build_engine, load_model, pick_device
from deployments.model.sequence import EngineRequest, Timing, Token
from deployments.types import FinishReason, SamplingParams


class Clock:
    """A listener that notes when each token came."""

    def __init__(self) -> None:
        self.instants: list[float] = []

    def on_token(self, choice: int, token: Token, finish: FinishReason | None) -> None:
        self.instants.append(time.perf_counter())

    def on_end(self, timing: Timing) -> None: ...

    def on_error(self, error: SluiceError) -> None:
        raise error

    def gaps_ms(self, start: float, end: float) -> list[float]:
        """Times between two tokens, the later of which came inside a window."""
        return [1e3 * (b - a) for a, b in itertools.pairwise(self.instants) if start <= b <= end]


def submit(engine: Engine, rng: np.random.Generator, prompt_tokens: int, answer_tokens: int) -> Clock:
    clock = Clock()
    ids = rng.integers(20, 250, size=prompt_tokens).astype(np.int32)
    params = SamplingParams(max_tokens=answer_tokens, temperature=0.0)
    engine.submit(EngineRequest(ids, params, Deadline(3600.0, "model")), {}, clock)
    return clock


def decode_rate(model: Any, batch: int, steps: int, seed: int) -> tuple[float, float]:
    """Tokens/s and ms/step of `batch` answers that decode together."""
    config = EngineConfig(max_running=batch, kv_cache_gib=0.2, max_context_tokens=1024)
    engine = build_engine(model, config, RecordingSink())
    rng = np.random.default_rng(seed)
    clocks = [submit(engine, rng, 40, steps + 8) for _ in range(batch)]
    while min(len(clock.instants) for clock in clocks) < 4:
        engine.step()
    began = time.perf_counter()
    for _ in range(steps):
        engine.step()
    elapsed = time.perf_counter() - began
    return batch * steps / elapsed, 1e3 * elapsed / steps


def gaps_beside_prefill(model: Any, prompt_tokens: int, seed: int, *, whole: bool) -> tuple[list[float], list[float]]:
    """ITL (ms) of eight running answers, alone and while a long prompt is prefilled; `whole`: in a single chunk."""
    config = EngineConfig(max_running=10, kv_cache_gib=0.4, max_context_tokens=prompt_tokens + 1024)
    config = config.model_copy(update={"prefill_chunk_tokens": prompt_tokens}) if whole else config
    engine = build_engine(model, config, RecordingSink())
    if whole:
        engine._pace.budget = lambda *, decoding: prompt_tokens  # type: ignore[method-assign]
    rng = np.random.default_rng(seed)
    clocks = [submit(engine, rng, 40, 900) for _ in range(8)]
    while min(len(clock.instants) for clock in clocks) < 10:
        engine.step()
    idle_from = time.perf_counter()
    for _ in range(100):
        engine.step()
    idle_to = time.perf_counter()
    long = submit(engine, rng, prompt_tokens, 1)
    while not long.instants:
        engine.step()
    engine.step()
    ends = time.perf_counter()
    idle = [gap for clock in clocks for gap in clock.gaps_ms(idle_from, idle_to)]
    beside = [gap for clock in clocks for gap in clock.gaps_ms(idle_to, ends)]
    return idle, beside


def p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the forward pass")


def main(argv: Sequence[str] | None = None) -> None:
    bench = Benchmark("engine", "What does batching gain, and what does a long prefill cost?", argv, _options)
    torch.set_num_threads(bench.args.threads)
    model = load_model(AppConfig(), pick_device("cpu"))
    batches = (1, 4, 16) if bench.quick else (1, 2, 4, 8, 16, 32)
    steps, rounds = (40, 3) if bench.quick else (100, 5)
    rates: dict[int, list[tuple[float, float]]] = {batch: [] for batch in batches}
    for _ in tqdm(range(rounds), desc="batch scaling"):
        for batch in batches:
            rates[batch].append(decode_rate(model, batch, steps, bench.seed))
    medians = {batch: statistics.median(rate for rate, _ in runs) for batch, runs in rates.items()}
    rows = [
        [batch, medians[batch], statistics.median(ms for _, ms in runs), medians[batch] / medians[1]]
        for batch, runs in rates.items()
    ]
    bench.table("Decode by batch size", ["batch", "tokens/s", "ms/step", "x batch 1"], rows)

    prompt_tokens = 1000 if bench.quick else 4000
    rows, ratios = [], {}
    for name, whole in tqdm((("in chunks", False), ("at once", True)), desc="prefill beside decode"):
        runs = [gaps_beside_prefill(model, prompt_tokens, bench.seed, whole=whole) for _ in range(rounds)]
        values = [
            statistics.median(measure(gaps[i]) for gaps in runs) for i in (0, 1) for measure in (statistics.median, p99)
        ]
        ratios[name] = statistics.median(p99(beside) / p99(idle) for idle, beside in runs)
        rows.append([name, *values, ratios[name]])
    columns = ["prefill", "idle p50 ms", "idle p99 ms", "beside p50 ms", "beside p99 ms", "p99 beside / idle"]
    bench.table(f"ITL of eight answers beside a {prompt_tokens}-token prefill", columns, rows)
    bench.finish(
        f"Batch 16 decodes {medians[16] / medians[1]:.1f} times the tokens/s of batch 1; "
        f"beside a {prompt_tokens}-token prefill the p99 ITL is {ratios['in chunks']:.1f} times its idle value.",
        {"tokens_per_s": {str(batch): rate for batch, rate in medians.items()}, "itl_p99_ratio": ratios},
    )


if __name__ == "__main__":
    main()
