"""Everything that needs a GPU, in one call of a few minutes: decode speed against the memory's own speed, prefill.

    python -m benchmarks gpu [--quick] [--device cpu]

A randomly initialised Qwen3-VL in the shape of an 8B model (36 layers of width 4096), bf16. Ceiling: a decode step at
batch 1 reads every weight once, so it can not take less than the weights' bytes over the card's measured copy
bandwidth. Each batch runs twice: steps launched by Python, and replayed as CUDA graphs (`engine.decode_graphs`).
`--device cpu --quick` runs the same code on a tiny shape, to see that it works; it records no graphs.
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
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from benchmarks.kit.engine_load import submit, text_prompt
from benchmarks.kit.harness import Benchmark
from deployments.config import EngineConfig
from deployments.model.loading import build_engine
from deployments.observability.metrics import RecordingSink

_ROPE = {"rope_type": "default", "rope_theta": 5_000_000.0}
_LARGE = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
    "rope_parameters": {**_ROPE, "mrope_section": [24, 20, 20]},
}
_TINY = {
    **_LARGE,
    "vocab_size": 1000,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rope_parameters": {**_ROPE, "mrope_section": [6, 5, 5]},
}


def random_model(shape: dict[str, Any], device: torch.device) -> Any:
    """A model of `shape` with weights drawn on the device, in bfloat16; its vision tower is a token one."""
    vision = {"depth": 1, "hidden_size": 64, "out_hidden_size": shape["hidden_size"], "num_heads": 2}
    config = Qwen3VLConfig(text_config=shape, vision_config={**vision, "deepstack_visual_indexes": []})
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen3VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    return model.eval()


def copy_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes/s that a device-to-device copy moves: those it reads and those it writes."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(10):
        _wait(device)
        began = time.perf_counter()
        target.copy_(source)
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return 2 * num_bytes / statistics.median(seconds)


def itl_ms(model: Any, config: EngineConfig, batch: int, prompt_tokens: int, steps: int) -> tuple[float, float]:
    """Median ms of a decode step with `batch` answers, and ms to prefill one prompt when nothing else runs."""
    engine = build_engine(model, config, RecordingSink())
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    clocks = [submit(engine, text_prompt(rng, prompt_tokens), steps + 20)]
    while not clocks[0].instants:
        engine.step()
    prefill_ms = 1e3 * (time.perf_counter() - began)
    clocks += [submit(engine, text_prompt(rng, prompt_tokens), steps + 20) for _ in range(batch - 1)]
    while min(len(clock.instants) for clock in clocks) == 0:
        engine.step()
    gaps = []
    for _ in range(min(steps, steps + 18 - max(len(clock.instants) for clock in clocks))):
        step = time.perf_counter()
        engine.step()  # ends with the copy of its tokens to the host
        gaps.append(1e3 * (time.perf_counter() - step))
    return statistics.median(gaps), prefill_ms


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))


def main(argv: Sequence[str] | None = None) -> None:
    bench = Benchmark("gpu", "How near to the memory's speed does a large model decode?", argv, _options)
    device = torch.device(bench.args.device)
    large = device.type == "cuda"
    card = torch.cuda.get_device_name(device) if large else "no card: CPU"
    model = random_model(_LARGE if large else _TINY, device)
    weights = sum(p.nbytes for name, p in model.named_parameters() if "embed_tokens" not in name)
    bandwidth = copy_bandwidth(device, 2**30 if large else 2**26)
    floor_ms = 1e3 * weights / bandwidth
    prompt_tokens, steps = (512, 60) if large else (64, 10)
    batches = (1, 8) if bench.quick else (1, 8, 32)
    rows = []
    for batch, graphs in tqdm(list(itertools.product(batches, (False, True))), desc="batches"):
        # Room for answers that go on while the batch fills up.
        answers = steps + (batch * 2 + 20)
        config = EngineConfig(
            max_running=batch,
            max_context_tokens=prompt_tokens + answers + 64,
            kv_cache_gib=16.0 if large else 0.1,
            prefill_slowdown=None,
            decode_graphs=graphs,
        )
        step_ms, prefill_ms = itl_ms(model, config, batch, prompt_tokens, answers)
        way = ("replayed" if large else "fixed shapes") if graphs else "launched"
        rows.append([batch, way, step_ms, 1e3 * batch / step_ms, floor_ms / step_ms, prefill_ms])
    columns = ["batch", "steps", "ITL ms", "tokens/s", "share of the copy bandwidth"]
    note = f"{card}; {weights / 2**30:.2f} GiB of weights, {bandwidth / 1e9:.0f} GB/s copied, {floor_ms:.2f} ms floor"
    bench.table("Decode of random weights, bf16", [*columns, f"prefill of {prompt_tokens} tokens ms"], rows, note)
    best = min(row[2] for row in rows if row[0] == 1)
    bench.finish(
        f"{card}: {best:.1f} ms a token at batch 1, {100 * floor_ms / best:.0f} % of what its memory allows.",
        {
            "card": card,
            "bandwidth_bytes_s": bandwidth,
            "itl_ms": {f"batch {batch}, {way}": step_ms for batch, way, step_ms, *_ in rows},
        },
    )


if __name__ == "__main__":
    main()
