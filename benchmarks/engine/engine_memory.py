"""Memory of many requests with long videos that decode together: ours, and with encoder outputs kept to the end.

    python -m benchmarks engine_memory [--quick]

`generate` keeps a request's encoder outputs among its arguments until the answer is complete, and its caller keeps the
pixels. Both sides run on the same engine, model, prompts and KV cache (allocated and touched beforehand), each point in
its own process; "kept" holds on to both, "ours" to nothing. Ceiling: the memory of no request at all.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.kit.engine_load import Clock, clip_prompt, submit
from benchmarks.kit.harness import Benchmark, in_subprocess
from deployments.config import AppConfig, EngineConfig
from deployments.model.loading import build_engine
from deployments.model.multimodal.items import Item
from deployments.model.multimodal.request_media import EncodedRows
from deployments.model.weights import load_model, pick_device
from deployments.observability.metrics import RecordingSink

SLOTS = 64
ANSWER = 3000
"""Tokens; nobody gets there."""
MIB = 2**20


@torch.inference_mode()
def alive_while_decoding(requests: int, grid: tuple[int, int, int], seed: int, keep: bool) -> int:
    """Bytes of media alive when all requests decode; the caller reads the process's peak memory."""
    torch.set_num_threads(1)
    model = load_model(AppConfig(), pick_device("cpu"))
    tokens = grid[0] * grid[1] * grid[2] // 4 + 20 + ANSWER
    config = EngineConfig(max_running=SLOTS, kv_cache_gib=2.0, max_context_tokens=tokens, target_itl_s=60.0)
    engine = build_engine(model, config, RecordingSink())
    runner = engine._runner
    for layer in runner.cache.layers.layers:
        layer.keys.add_(0)  # storage is given by the system when it is first written
        layer.values.add_(0)
    kept: list[Any] = []
    encode = runner.encoder.encode

    def encode_and_keep(items: Sequence[Item]) -> list[EncodedRows]:
        encoded = encode(items)
        kept.append((items, encoded))
        return encoded

    if keep:
        runner.encoder.encode = encode_and_keep  # type: ignore[method-assign]
    rng = np.random.default_rng(seed)
    clocks: list[Clock] = []
    for _ in range(requests):
        # One after another, as they would arrive; all decode together in the end.
        clocks.append(submit(engine, clip_prompt(model.config, rng, grid), ANSWER))
        while not clocks[-1].instants:
            engine.step()
    assert max(len(clock.instants) for clock in clocks) < ANSWER, "an answer ended before all decoded"
    state = engine.snapshot()
    held = state.media_host_bytes + state.media_device_bytes
    held += sum(item.nbytes for items, _ in kept for item in items)
    return held + sum(rows.nbytes for _, encoded in kept for rows in encoded)


def main(argv: Sequence[str] | None = None) -> None:
    bench = Benchmark("engine_memory", "Does memory grow with the number of requests that decode?", argv)
    grid = (4, 12, 12) if bench.quick else (8, 16, 16)
    counts = (1, 32) if bench.quick else (1, 4, 16, 64)
    sides = {"ours": False, "kept": True}
    found: dict[tuple[int, str], tuple[int, int]] = {}
    for count, side in tqdm(list(itertools.product(counts, sides)), desc="processes of 1 to 64 requests"):
        found[count, side] = in_subprocess(alive_while_decoding, count, grid, bench.seed, sides[side])
    rows = [[count, *(value / MIB for side in sides for value in found[count, side])] for count in counts]
    peaks = {side: [found[count, side][1] / MIB for count in counts] for side in sides}
    columns = ["requests", "ours: media MiB", "ours: peak RSS MiB", "kept: media MiB", "kept: peak RSS MiB"]
    bench.table(f"Clips of {grid[0]}x{grid[1]}x{grid[2]} patches, all requests decoding", columns, rows)
    bench.plot("lines", "Peak memory while decoding, MiB", x=list(counts), series=peaks)
    growth = {name: values[-1] - values[0] for name, values in peaks.items()}
    bench.finish(
        f"From {counts[0]} to {counts[-1]} decoding requests the peak grows by {growth['ours']:.0f} MiB for us "
        f"and by {growth['kept']:.0f} MiB where outputs and pixels are kept.",
        {"peak_growth_mib": growth, "media_bytes_alive_ours": [row[1] for row in rows]},
    )


if __name__ == "__main__":
    main()
