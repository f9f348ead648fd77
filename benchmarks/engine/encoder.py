"""How long do answers wait for somebody's clip, where the towers are the model's own and where they are an encoder's?

    python -m benchmarks encoder [--quick] [--threads 1]

An engine and, in a process of its own, an encode stage, both on a CPU with the built-in model; nothing travels through
Ray. Answers decode while one clip is encoded and then prefilled, which are measured apart: an encoder spares them the
first, not the second. The floor is the same prompt of text, which has nothing to encode.
"""

import argparse
import asyncio
import gc
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.kit.engine_load import Clock, Prompt, clip_prompt, submit, text_prompt
from benchmarks.kit.harness import Benchmark
from deployments.config import AppConfig, EngineConfig
from deployments.model.encoder.stage import EncodeStage, load_towers
from deployments.model.engine.engine import Engine
from deployments.model.loading import build_engine, freeze_heap
from deployments.model.sequence import Phase
from deployments.model.weights import load_model, pick_device
from deployments.observability.metrics import RecordingSink
from deployments.types import EncodeTask, MediaKind, MediaMark

QUESTION = "How long do answers wait for somebody's clip, with the towers in the model and with an encoder?"
RUNNING = 8
OWN, APART, TEXT = "the model's own towers", "an encoder", "no clip: as many tokens of text"
IDLE_STEPS = 150


@dataclass(frozen=True, slots=True)
class _Run:
    """Times between tokens (ms) of running answers: alone, while a clip is encoded, while its prompt is prefilled."""

    idle_ms: list[float]
    encode_ms: list[float]
    prefill_ms: list[float]
    first_token_s: float
    answer: int


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("encoder", QUESTION, argv, _options)
    frames, rounds = (16, 3) if bench.quick else (64, 7)
    torch.set_num_threads(bench.args.threads)
    model = load_model(AppConfig(), pick_device("cpu"))
    freeze_heap()  # as a replica does
    runs: dict[str, list[_Run]] = {way: [] for way in (OWN, APART, TEXT)}
    with _encoder(bench.args.threads) as encoder:
        for number in tqdm(range(-1, rounds), desc="clips", disable=None):
            seed = (bench.seed, number + 1)
            for way, found in runs.items():
                run = _beside(model, encoder if way == APART else None, way, seed, frames)
                if number >= 0:
                    found.append(run)
    same = all(own.answer == apart.answer for own, apart in zip(runs[OWN], runs[APART], strict=True))
    ratios = _show(bench, runs, 2 * frames)
    return bench.finish(
        f"While a clip of {2 * frames} frames is encoded, the p99 ITL of {RUNNING} answers is {ratios[OWN]:.2f} times"
        f" its idle value with the towers in the model, {ratios[APART]:.2f} times with an encoder; answers about the"
        f" clip are {'the same' if same else 'NOT the same'}.",
        {"itl_p99_ratio": ratios, "same": same},
    )


def _beside(model: Any, encoder: Connection | None, way: str, seed: tuple[int, int], frames: int) -> _Run:
    ids, tensors = _clip(model.config, seed, frames)
    prompt: Prompt = text_prompt(np.random.default_rng(seed), len(ids)) if way == TEXT else (ids, tensors)
    config = EngineConfig(max_running=RUNNING + 1, kv_cache_gib=0.4, max_context_tokens=len(ids) + 4096)
    engine = build_engine(model, config, RecordingSink())
    gc.collect()
    rng = np.random.default_rng(seed)
    clocks = [submit(engine, text_prompt(rng, 40), 4096) for _ in range(RUNNING)]
    _steps(engine, 20)
    idle_from = time.perf_counter()
    _steps(engine, IDLE_STEPS)
    asked = time.perf_counter()
    if encoder is not None:
        encoder.send((seed, frames))
        while not encoder.poll():
            engine.step()
        prompt = (ids, encoder.recv())
        encoded = time.perf_counter()
        clock = submit(engine, prompt, 1)
    else:
        clock = submit(engine, prompt, 1)
        encoded = _encoded(engine, clock)
    while not clock.instants:
        engine.step()
    engine.step()
    windows = ((idle_from, asked), (asked, encoded), (encoded, time.perf_counter()))
    idle, encode, prefill = ([gap for one in clocks for gap in one.gaps_ms(*window)] for window in windows)
    return _Run(idle, encode, prefill, clock.instants[0] - asked, clock.token_ids[0])


def _encoded(engine: Engine, clock: Clock) -> float:
    """When the engine has encoded the clip; it decodes meanwhile."""
    assert clock.sequence is not None
    while clock.sequence.phase in (Phase.WAITING, Phase.ENCODE):
        engine.step()
    return time.perf_counter()


def _steps(engine: Engine, count: int) -> None:
    for _ in range(count):
        engine.step()


def _clip(config: Any, seed: tuple[int, int], frames: int) -> Prompt:
    return clip_prompt(config, np.random.default_rng(seed), (frames, 12, 12))


@contextmanager
def _encoder(threads: int) -> Iterator[Connection]:
    """A process that encodes: it is told a clip's seed and frames, and answers what the model needs of that clip."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_encode_for, args=(there, threads), daemon=True)
    process.start()
    try:
        yield here
    finally:
        here.close()
        process.join(10)
        process.kill()


def _encode_for(asked: Connection, threads: int) -> None:
    torch.set_num_threads(threads)
    config = AppConfig.model_validate({"encoder": {}})
    towers = load_towers(config)
    stage = EncodeStage(towers, config, RecordingSink())
    stage.loop.start()
    while True:
        try:
            seed, frames = asked.recv()
        except EOFError:
            return
        _, tensors = _clip(towers.model.config, seed, frames)
        task = EncodeTask(None, (MediaMark(MediaKind.VIDEO, "clip", ""),), "", reuse=True)
        _, outputs = asyncio.run(stage.encode(60.0, task, [tensors]))
        asked.send(outputs)


def _show(bench: Benchmark, runs: Mapping[str, Sequence[_Run]], frames: int) -> dict[str, float]:
    """The table; by way, p99 while the clip is encoded as a multiple of idle p99: medians of the rounds."""
    rows, ratios = [], {}
    for way, found in runs.items():
        idle = statistics.median(_p99(run.idle_ms) for run in found)
        encode = None
        if way != TEXT:
            encode = ratios[way] = statistics.median(_p99(run.encode_ms) / _p99(run.idle_ms) for run in found)
        prefill = statistics.median(_p99(run.prefill_ms) / _p99(run.idle_ms) for run in found)
        rows.append([way, idle, encode, prefill, 1e3 * statistics.median(run.first_token_s for run in found)])
    columns = ["beside", "idle p99 ms", "while encoded, p99 / idle", "while prefilled, p99 / idle", "first token ms"]
    note = "Two processes want a core each with an encoder, and one without. A step with prompts may take 50 ms."
    bench.table(f"ITL of {RUNNING} answers beside a clip of {frames} frames", columns, rows, note)
    return ratios


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model, and of the encoder")


if __name__ == "__main__":
    main()
