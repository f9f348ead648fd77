"""Everything that needs a GPU, in one call of four minutes: how near to the card's own limits does the engine come?

    python -m benchmarks gpu [--quick] [--device cpu] [--parts decode,towers] [--ranks 2] [--run-ahead] [--out FILE]

A randomly initialised Qwen3-VL in the shape of the 8B model, bf16, with the default settings. Ceiling: a decode step
reads every weight once, so it can not take less than their bytes over the card's measured copy bandwidth. Each part has
a time limit; results are written to `--out` as they come. `--device cpu --quick` runs all of it tiny. `--ranks 2`
divides the model among two cards (not run on cards yet); the ceiling is then a rank's.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engine.gpu_model import NORM, another_question, media_prompt, random_model
from benchmarks.engine.gpu_ranks import led
from benchmarks.kit.engine_load import Clock, Prompt, submit
from benchmarks.kit.harness import Benchmark
from deployments.config import EngineConfig
from deployments.model.loading import build_engine
from deployments.model.parallel.leader import Leader
from deployments.observability.metrics import RecordingSink
from deployments.types import MediaKind


class Late(Exception):
    """A part took longer than it may."""


class Bench:
    """One engine, stepped from here, and what its parts found."""

    def __init__(self, device: torch.device, out: Path | None, ranks: int = 1, *, run_ahead: bool = False) -> None:
        self.device, self.large = device, device.type == "cuda"
        self.rng = np.random.default_rng(0)
        self.results: dict[str, Any] = {}
        self._out = out
        self._stop = float("inf")
        small = {} if self.large else {"kv_cache_gib": 0.3, "max_running": 64}
        self.config = EngineConfig(run_ahead=run_ahead, **small)
        self.leader: Leader | None = None
        if ranks == 1:
            self.model = random_model(device)
        else:
            self.leader, self.model = led(ranks, device, self.config)
        began = time.perf_counter()
        self.engine = build_engine(self.model, self.config, RecordingSink(), leader=self.leader)
        self.put("start", {"engine ready s": time.perf_counter() - began})

    def put(self, name: str, found: dict[str, Any]) -> None:
        self.results[name] = {**self.results.get(name, {}), **found}
        print(name, {key: round(v, 4) if isinstance(v, float) else v for key, v in found.items()}, flush=True)
        if self._out is not None:
            self._out.write_text(json.dumps(self.results, indent=1))

    def limit(self, seconds: float) -> None:
        self._stop = time.perf_counter() + seconds

    def until(self, done: Callable[[], bool]) -> float:
        """Step until it is done; seconds."""
        began = time.perf_counter()
        while self.engine.busy and not done():
            if time.perf_counter() > self._stop:
                raise Late
            self.engine.step()
        return time.perf_counter() - began

    def idle(self, clocks: Sequence[Clock] = ()) -> None:
        """Let go of what runs."""
        for clock in clocks:
            assert clock.sequence is not None
            clock.sequence.abort()
        while self.engine.busy:
            self.engine.step()

    def ask(self, prompt: Prompt, tokens: int = 1) -> Clock:
        return submit(self.engine, prompt, tokens, NORM if prompt[1] else None)

    def text(self, tokens: int) -> Prompt:
        high = 900 if self.large else 250
        return self.rng.integers(20, high, size=tokens).astype(np.int32), {}

    def first_token_s(self, prompt: Prompt) -> float:
        clock = self.ask(prompt)
        self.until(lambda: False)
        return clock.ttft_s


def floor(bench: Bench) -> None:
    """The card's own limit."""
    num_bytes = 2**30 if bench.large else 2**24
    source = torch.empty(num_bytes, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds = [_timed(bench.device, lambda: target.copy_(source)) for _ in range(10)]
    bandwidth = 2 * num_bytes / statistics.median(seconds)
    held = sum(p.nbytes for name, p in bench.model.named_parameters() if "embed" not in name and "visual" not in name)
    bench.put(
        "floor", {"GB/s copied": bandwidth / 1e9, "weights GiB": held / 2**30, "ms a step": 1e3 * held / bandwidth}
    )


def decode(bench: Bench) -> None:
    """ms between two tokens with so many answers at 1,024 tokens of context."""
    least_ms = bench.results["floor"]["ms a step"]
    for batch in (1, 8, 32, 128) if bench.large else (1, 4):
        clocks = [bench.ask(bench.text(1000 if bench.large else 40), 400) for _ in range(batch)]
        bench.until(lambda clocks=clocks: all(len(clock.instants) >= 3 for clock in clocks))
        began = time.perf_counter()
        bench.until(lambda clock=clocks[0]: len(clock.instants) >= (33 if bench.large else 7))
        gaps = clocks[0].gaps_ms(began, time.perf_counter())
        bench.idle(clocks)
        itl_ms = statistics.median(gaps)
        bench.put("decode", {f"{batch}: ITL ms": itl_ms, f"{batch}: times the floor": itl_ms / least_ms})


def prefill(bench: Bench) -> None:
    """Tokens/s of one prompt, nobody else there."""
    for tokens in (512, 2048, 4096, 8192) if bench.large else (16, 64):
        bench.first_token_s(bench.text(tokens))
        seconds = min(bench.first_token_s(bench.text(tokens)) for _ in range(3))
        bench.put("prefill", {f"{tokens}: tokens/s": tokens / seconds})


def beside(bench: Bench) -> None:
    """A prompt of 4,096 tokens beside running answers: its first token, and how it holds them up."""
    for batch in (8, 32) if bench.large else (2,):
        clocks = [bench.ask(bench.text(1000 if bench.large else 40), 600) for _ in range(batch)]
        bench.until(lambda clocks=clocks: all(len(clock.instants) >= 20 for clock in clocks))
        ttft, gaps = [], []
        for _ in range(3 if bench.large else 1):
            began = time.perf_counter()
            late = bench.ask(bench.text(4096 if bench.large else 60))
            bench.until(lambda late=late: bool(late.instants))
            ttft.append(late.ttft_s)
            gaps += [gap for clock in clocks for gap in clock.gaps_ms(began, late.instants[0])]
        bench.idle(clocks)
        bench.put(
            "beside",
            {
                f"{batch}: TTFT s": ttft,
                f"{batch}: ITL p50 ms": float(np.percentile(gaps, 50)),
                f"{batch}: ITL p99 ms": float(np.percentile(gaps, 99)),
            },
        )


def crowd(bench: Bench) -> None:
    """Many requests at once, 1,024 tokens in, 128 out."""
    tokens_in, tokens_out = (1024, 128) if bench.large else (40, 6)
    for count in (64, 256) if bench.large else (8,):
        began = time.perf_counter()
        clocks = [bench.ask(bench.text(tokens_in), tokens_out) for _ in range(count)]
        bench.until(lambda: False)
        seconds = time.perf_counter() - began
        first = [clock.ttft_s for clock in clocks]
        gaps = [gap for clock in clocks for gap in clock.gaps_ms(max(first) + began, began + seconds)]
        bench.put(
            "crowd",
            {
                f"{count}: tokens/s": count * tokens_out / seconds,
                f"{count}: TTFT p50 s": statistics.median(first),
                f"{count}: last first token s": max(first),
                f"{count}: ITL p50 ms afterwards": statistics.median(gaps) if gaps else None,
            },
        )


def sampled(bench: Bench) -> None:
    """What top-p costs beside greedy choices."""
    from deployments.core.deadline import Deadline
    from deployments.model.sequence import EngineRequest
    from deployments.types import SamplingParams

    for batch in (1, 32) if bench.large else (2,):
        clocks = []
        for number in range(batch):
            params = SamplingParams(max_tokens=200, temperature=0.7, top_p=0.9, seed=number)
            clock = Clock()
            request = EngineRequest(bench.text(1000 if bench.large else 40)[0], params, Deadline(600.0, "model"))
            clock.sequence = bench.engine.submit(request, {}, clock)
            clocks.append(clock)
        bench.until(lambda clocks=clocks: all(len(clock.instants) >= 3 for clock in clocks))
        gaps = [1e3 * _timed(bench.device, bench.engine.step) for _ in range(30 if bench.large else 3)]
        bench.idle(clocks)
        bench.put("sampled", {f"{batch}: ITL ms": statistics.median(gaps)})


_PICTURES = {"448x448": (1, 28, 28), "1920x1080": (1, 68, 120), "32 frames 448x800": (16, 28, 50)}
_TINY_PICTURES = {"64x64": (1, 4, 4), "4 frames": (2, 4, 4)}


def towers(bench: Bench) -> None:
    """Media alone: encoder ms, and the first token of a request with them."""
    family = bench.engine.family
    for name, grid in (_PICTURES if bench.large else _TINY_PICTURES).items():
        ids, tensors = media_prompt(bench.rng, grid)
        kind = MediaKind.VIDEO if grid[0] > 1 else MediaKind.IMAGE
        given = {key: torch.from_numpy(value).to(bench.device) for key, value in tensors.items()}
        given = {key: t.to(bench.model.dtype) if key.startswith("pixel") else t for key, t in given.items()}
        arguments = {key: t for key, t in given.items() if key in family.features[kind].argument_names}
        family.encode(kind, arguments)
        seconds = min(_timed(bench.device, lambda a=arguments, k=kind: family.encode(k, a)) for _ in range(3))
        rows = len(ids) - 12
        first = [bench.first_token_s(media_prompt(bench.rng, grid)) for _ in range(2)]
        bench.put(
            "towers",
            {f"{name}: encode ms": 1e3 * seconds, f"{name}: tokens/s": rows / seconds, f"{name}: TTFT s": first},
        )


def prefix(bench: Bench) -> None:
    """A second question about the same clip of 10,000 tokens; beside it, text alone of the question's length."""
    grid = (32, 28, 46) if bench.large else (3, 4, 4)
    clip = media_prompt(bench.rng, grid)
    first_s = bench.first_token_s(clip)
    again = [bench.first_token_s(another_question(bench.rng, clip)) for _ in range(3)]
    text = [bench.first_token_s(bench.text(12)) for _ in range(3)]
    bench.put(
        "prefix", {"tokens": len(clip[0]), "first question TTFT s": first_s, "second s": again, "text alone s": text}
    )


def memory(bench: Bench) -> None:
    """Device memory while 1 to 64 answers about clips are decoded: what media took must be gone."""
    if not bench.large:
        return
    clocks: list[Clock] = []
    for count in (1, 8, 32, 64):
        while len(clocks) < count:
            clocks.append(bench.ask(media_prompt(bench.rng, (8, 14, 24)), 2000))
            bench.until(lambda clock=clocks[-1]: bool(clock.instants))
        bench.put("memory", {f"{count} clips: GiB": torch.cuda.memory_allocated() / 2**30})
    bench.idle(clocks)


def capacity(bench: Bench) -> None:
    """Requests that fit."""
    cache = bench.engine._cache
    tokens = cache.pool.num_pages * cache.page_size
    bench.put(
        "capacity",
        {"tokens": tokens, "requests of 2k": tokens // 2048, "of 2.5k": tokens // 2560, "longest": cache.max_length},
    )


def generate(bench: Bench) -> None:
    """transformers' own loop over the same, fused, model; nobody would compute the other ranks' parts of it."""
    if bench.leader is not None:
        return
    for batch in (1, 8) if bench.large else (1,):
        ids = torch.randint(20, 250, (batch, 1000 if bench.large else 40), device=bench.device)
        steps = 12 if bench.large else 3
        with torch.inference_mode():
            bench.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)
            first = _timed(bench.device, lambda ids=ids: _generate(bench, ids, 1))
            whole = _timed(bench.device, lambda ids=ids, n=1 + steps: _generate(bench, ids, n))
        bench.put("generate", {f"{batch}: ITL ms": 1e3 * (whole - first) / steps})


def _generate(bench: Bench, ids: torch.Tensor, tokens: int) -> None:
    bench.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)


PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "floor": (floor, 10),
    "decode": (decode, 40),
    "prefill": (prefill, 20),
    "beside": (beside, 30),
    "crowd": (crowd, 50),
    "sampled": (sampled, 15),
    "towers": (towers, 25),
    "prefix": (prefix, 20),
    "capacity": (capacity, 5),
    "memory": (memory, 30),
    "generate": (generate, 25),
}
"""And the seconds that each may take."""


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--parts", default=",".join(PARTS), help="which, in their order")
    parser.add_argument("--ranks", type=int, default=1, help="cards among which the model is divided")
    parser.add_argument("--run-ahead", action="store_true", help="with the setting of that name")
    parser.add_argument("--out", type=Path, help="JSON, written anew after each finding")


def main(argv: Sequence[str] | None = None) -> None:
    benchmark = Benchmark("gpu", "How near to the card's own limits does the engine come?", argv, _options)
    device = torch.device(benchmark.args.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "no card: CPU"
    print(card, flush=True)
    bench = Bench(device, benchmark.args.out, benchmark.args.ranks, run_ahead=benchmark.args.run_ahead)
    for name in benchmark.progress(benchmark.args.parts.split(","), "parts"):
        part, seconds = PARTS[name]
        bench.limit(seconds)
        try:
            part(bench)
        except Late:
            bench.put(name, {"left out after s": seconds})
            bench.idle()
        except Exception as error:  # the others go on
            bench.put(name, {"failed": f"{type(error).__name__}: {error}"[:300]})
    if bench.leader is not None:
        bench.leader.close()
    rows = [[name, key, value] for name, found in bench.results.items() for key, value in found.items()]
    benchmark.table("Random Qwen3-VL, default settings", ["part", "what", "value"], rows, card)
    decoded = bench.results.get("decode", {})
    alone_ms, times = (decoded.get(f"1: {name}", float("nan")) for name in ("ITL ms", "times the floor"))
    answer = f"{card}: {alone_ms:.2f} ms a token alone, {times:.2f} times the floor."
    benchmark.finish(answer, {"card": card, **bench.results})


if __name__ == "__main__":
    main()
