"""Slots or pages: what each way to lay out the KV cache wastes, and what a decode step costs with it.

    python -m benchmarks engine_cache [--quick]

A slot holds one sequence of any length up to the longest, in one piece: a step's attention reads views of the cache. A
page holds 64 tokens of some sequence: less is wasted when lengths differ, but without a kernel that reads pages where
they lie a step must gather them first. transformers' models call plain attention, on every device and in every family,
so that gathering is what pages would mean here. The first table simulates one budget with a queue that never ends, each
sequence's room (prompt and longest answer) taken at admission; the second runs the engine on both layouts.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.kit.engine_load import submit, text_prompt
from benchmarks.kit.harness import Benchmark
from deployments.config import AppConfig, EngineConfig
from deployments.model.kv_cache.cache import SlotLayer
from deployments.model.kv_cache.spans import DecodeSpan
from deployments.model.loading import build_engine, load_model, pick_device
from deployments.observability.metrics import RecordingSink

PAGE = 64
BUDGET = 64 * 4096
"""Tokens of the simulated cache."""
MIXES = {
    "equal: clips of 4,000 tokens": [(1.0, (3900, 4100), (64, 512))],
    "chat: 50 to 1,000 tokens": [(1.0, (50, 1000), (64, 512))],
    "pictures: 500 to 4,000 tokens": [(1.0, (500, 4000), (64, 512))],
    "mixed: seven chats, two pictures, a clip of 4,000 to 16,000": [
        (0.7, (50, 1000), (64, 512)),
        (0.2, (500, 4000), (64, 512)),
        (0.1, (4000, 16_000), (64, 1024)),
    ],
}
"""Share, prompt tokens from and to, answer tokens from and to."""


def sequences(mix: list[tuple[float, tuple[int, int], tuple[int, int]]], rng: np.random.Generator, count: int) -> Any:
    """(prompt, answer) tokens of `count` requests."""
    kinds = rng.choice(len(mix), size=count, p=[share for share, _, _ in mix])
    return [(int(rng.integers(*mix[kind][1])), int(rng.integers(*mix[kind][2]))) for kind in kinds]


def running(lengths: list[tuple[int, int]], room: Any, capacity: int) -> tuple[float, float]:
    """Sequences that run at once, on average over time, and the share of the capacity which holds tokens.

    First come, first served; `room(prompt, answer)` is what a sequence takes until its answer is complete.
    """
    now, free, queue = 0, capacity, iter(lengths)
    ends: list[tuple[int, int, int, int]] = []
    total = held = 0.0
    waiting = next(queue)
    while waiting is not None:
        while waiting is not None and room(*waiting) <= free:
            free -= room(*waiting)
            ends.append((now + waiting[1], room(*waiting), *waiting))
            waiting = next(queue, None)
        then = min(ends)[0]
        total += len(ends) * (then - now)
        held += sum(prompt + answer / 2 for _, _, prompt, answer in ends) * (then - now)
        now = then
        free += sum(taken for end, taken, _, _ in ends if end == now)
        ends = [entry for entry in ends if entry[0] > now]
    return total / now, held / now


class PagedLayer(SlotLayer):
    """Full attention over pages [pages, H, PAGE, D] that lie anywhere, as they do once sequences have come and gone."""

    def __init__(self, slots: SlotLayer, seed: int) -> None:
        super().__init__(slots.keys, slots.values)
        num_slots, heads, length, width = slots.keys.shape
        self._shape = (num_slots * (length // PAGE), heads, PAGE, width)
        self._key_pages, self._value_pages = torch.zeros(self._shape), torch.zeros(self._shape)
        order = torch.randperm(self._shape[0], generator=torch.Generator().manual_seed(seed))
        self._table = order.view(num_slots, length // PAGE)

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        span = self.span
        if not isinstance(span, DecodeSpan):
            return super().update(key_states, value_states)
        rows_R, places_R = self.rows_R[: span.rows], span.lengths_R
        pages_R = self._table[rows_R, places_R // PAGE]
        self._key_pages[pages_R, :, places_R % PAGE] = key_states[:, :, 0]
        self._value_pages[pages_R, :, places_R % PAGE] = value_states[:, :, 0]
        table = self._table[: span.rows, : span.width // PAGE]
        return self._gathered(self._key_pages, table), self._gathered(self._value_pages, table)

    @staticmethod
    def _gathered(pages: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return pages[table].transpose(1, 2).flatten(2, 3)


def step_ms(model: Any, batch: int, context: int, seed: int, *, paged: bool, steps: int) -> float:
    """Median of a decode step of `batch` sequences of `context` tokens; what a paged cache reads is not what a prefill
    wrote, which changes its answers and not its time."""
    config = EngineConfig(max_running=batch, kv_cache_gib=1.0, max_context_tokens=context + 128, prefill_slowdown=None)
    engine = build_engine(model, config, RecordingSink())
    if paged:
        cache = engine._runner.cache
        cache.layers[:] = [PagedLayer(layer, seed) for layer in cache.layers]
        cache._slot_layers = cache.layers
    rng = np.random.default_rng(seed)
    clocks = [submit(engine, text_prompt(rng, context - 64), 128) for _ in range(batch)]
    while not all(clock.instants for clock in clocks):
        engine.step()
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)


def main(argv: Sequence[str] | None = None) -> None:
    bench = Benchmark("engine_cache", "What would pages gain over slots in the KV cache, and cost?", argv)
    torch.set_num_threads(1)
    gains = _admission(bench)
    costs = _steps(bench)
    equal, *_, mixed = gains.values()
    *_, long = costs.values()
    bench.finish(
        f"In one budget pages run {equal:.2f} times as many sequences of one length and {mixed:.1f} times as many of "
        f"very mixed ones, and gathering them makes a step {long:.1f} times as long. Slots it is, as long as attention "
        "reads keys in one piece; where lengths are mixed, `engine.max_context_tokens` is the setting to lower.",
        {"sequences_pages_over_slots": gains, "step_pages_over_slots": costs},
    )


def _admission(bench: Benchmark) -> dict[str, float]:
    rows, gains = [], {}
    for name, mix in tqdm(MIXES.items(), desc="admission"):
        lengths = sequences(mix, np.random.default_rng(bench.seed), 300 if bench.quick else 3000)
        longest = max(prompt[1] + answer[1] for _, prompt, answer in mix)
        slots, held = running(lengths, lambda prompt, answer, longest=longest: longest, BUDGET)
        pages, paged = running(lengths, lambda prompt, answer: -(-(prompt + answer) // PAGE) * PAGE, BUDGET)
        gains[name] = pages / slots
        rows.append([name, slots, 100 * held / BUDGET, pages, 100 * paged / BUDGET, pages / slots])
    columns = ["requests", "slots: running", "slots: % filled", "pages: running", "pages: % filled", "pages / slots"]
    note = f"A slot holds the mix's longest sequence; a cache of {BUDGET:,} tokens; averages over time."
    bench.table("Sequences that run at once in one budget", columns, rows, note)
    return gains


def _steps(bench: Benchmark) -> dict[str, float]:
    model = load_model(AppConfig(), pick_device("cpu"))
    contexts, rounds = ((256, 1024), 2) if bench.quick else ((256, 1024, 4096), 3)
    rows, costs = [], {}
    for context in tqdm(contexts, desc="decode steps"):
        found: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(rounds):
            for paged, times in found.items():
                times.append(step_ms(model, 8, context, bench.seed, paged=paged, steps=40))
        slots, pages = (statistics.median(times) for times in found.values())
        costs[str(context)] = pages / slots
        rows.append([context, slots, pages, pages / slots])
    bench.table("A decode step of eight sequences", ["tokens each", "slots ms", "pages ms", "pages / slots"], rows)
    return costs


if __name__ == "__main__":
    main()
