"""From a configuration to a model that is ready to serve: weights, cache, checks, warm-up. Knows no Ray."""

import atexit
import gc
import logging
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from deployments.config import AppConfig, EngineConfig
from deployments.errors import InternalError
from deployments.model.engine.engine import Engine
from deployments.model.engine.step_budget import StepBudget
from deployments.model.families.family import Family
from deployments.model.families.parts import Part
from deployments.model.forward.recorder import CudaRecorder
from deployments.model.forward.runner import ModelRunner
from deployments.model.forward.self_check import check_text, warm_up, warn_unverified
from deployments.model.forward.speed_up import speed_up
from deployments.model.forward.tower_runner import TowerRunner
from deployments.model.forward.tower_warm_up import warm_up_towers
from deployments.model.kv_cache.cache import KVCache
from deployments.model.kv_cache.store import CachePlan
from deployments.model.multimodal.digests import Digests
from deployments.model.multimodal.encoder_cache import EncoderCache
from deployments.model.multimodal.request_media import MediaMemory
from deployments.model.multimodal.uploads import Uploads
from deployments.model.parallel.leader import Leader
from deployments.model.parallel.ranks import Ranks
from deployments.model.sampling.recorded_draws import RecordedDraws
from deployments.model.sampling.sampler import Sampler
from deployments.model.sampling.under_way import read_back
from deployments.model.weights import load_model, served_part, start_device
from deployments.observability.metrics import MetricSink

GIB = 2**30
MIB = 2**20
CPU_KV_CACHE_GIB = 0.5
CPU_CHUNK, CARD_CHUNK = 512, 8192
"""Prompt tokens of a step at most."""
CPU_RUNNING, CARD_RUNNING = 16, 256
"""Sequences that decode together."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    engine: Engine
    eos_ids: frozenset[int]
    vocab_size: int


def load_engine(config: AppConfig, sink: MetricSink, leader: Leader | None = None) -> Loaded:
    """Load, allocate, check and warm up. Raises `InternalError` with the reason when the model can't be served.

    `leader`: of the ranks among which the model is divided.
    """
    device = start_device(config)
    part = served_part(config)
    settings = config.engine
    if part is Part.LANGUAGE:  # what has been encoded is kept where it is encoded
        settings = settings.model_copy(update={"reuse_cache_mib": 0.0})
    if leader is None:
        model = load_model(config, device, part=part)
        engine = build_engine(model, settings, sink)
    else:
        with leader.together():
            model = load_model(config, device, leader.meet(device), part)
            leader.begin()
            engine = build_engine(model, settings, sink, leader=leader)
    freeze_heap()
    return Loaded(engine, eos_ids(model), engine.family.vocab_size)


def build_engine(
    model: Any,
    config: EngineConfig,
    sink: MetricSink,
    budget: StepBudget | None = None,
    leader: Leader | None = None,
) -> Engine:
    """The engine of a loaded model, checked and warm, not started. Raises `InternalError` as `load_engine` does."""
    family = Family(model)
    speed_up(family)
    max_running, chunk_tokens = step_limits(config, model.device)
    cache = allocate_cache(family, config, None if leader is None else leader.ranks)
    memory = MediaMemory(int(config.encoder_budget_mib * MIB))
    uploads = Uploads(model.device)
    kept = EncoderCache(int(config.reuse_cache_mib * MIB), memory, sink) if config.reuse_cache_mib else None
    digests = Digests() if kept is not None or cache.prefixes is not None else None
    runner = ModelRunner(family, cache, TowerRunner(family, uploads, kept, digests), uploads)
    make_ready(runner, config)
    warn_unverified(family)
    recorded = None
    if model.device.type == "cuda":  # a CPU has nothing to set up
        warm_up_towers(family)
        if config.cuda_graphs:
            recorded = RecordedDraws(family.vocab_size, max_running, model.device, CudaRecorder())
    runs_ahead = config.run_ahead and model.device.type == "cuda" and leader is None and not cache.recurrent
    log_capacity(model, cache, max_running)
    if leader is not None:
        leader.lead(runner)
    return Engine(
        runner,
        memory,
        sink,
        budget=budget or StepBudget(chunk_tokens, config.target_itl_s),
        max_running=max_running,
        max_waiting=config.max_waiting,
        target_backlog_s=config.target_backlog_s,
        target_kv_usage=config.target_kv_usage,
        sampler=Sampler(model.device, recorded, read_back if runs_ahead else None),
    )


def build_follower(model: Any, config: EngineConfig, ranks: Ranks) -> ModelRunner:
    """What a further rank computes with. Made in step with rank 0's engine: both have parts of every sum."""
    family = Family(model)
    speed_up(family)
    cache = allocate_cache(family, config, ranks)
    uploads = Uploads(model.device)
    runner = ModelRunner(family, cache, TowerRunner(family, uploads, None), uploads)
    make_ready(runner, config)
    return runner


def make_ready(runner: ModelRunner, config: EngineConfig) -> None:
    """Check, record and warm up what every rank does. Raises `InternalError` for what can't be served."""
    max_running, chunk_tokens = step_limits(config, runner.device)
    check_text(runner)
    if runner.device.type == "cuda" and config.cuda_graphs:
        runner.record_graphs(max_running, CudaRecorder())
    warm_up(runner, max_running, chunk_tokens)


def step_limits(config: EngineConfig, device: torch.device) -> tuple[int, int]:
    """How many sequences decode together, and how many prompt tokens a step computes, at most."""
    on_cpu = device.type == "cpu"
    running = config.max_running or (CPU_RUNNING if on_cpu else CARD_RUNNING)
    return running, config.prefill_chunk_tokens or (CPU_CHUNK if on_cpu else CARD_CHUNK)


def log_capacity(model: Any, cache: KVCache, max_running: int) -> None:
    """What the start has found room for, as one table."""
    tokens = cache.pool.num_pages * cache.page_size
    rows = {
        "weights": f"{sum(weight.nbytes for weight in model.parameters()) / GIB:.2f} GiB",
        "KV cache": f"{cache.nbytes / GIB:.2f} GiB, {cache.pool.num_pages} pages of {cache.page_size} tokens",
        "longest context": f"{cache.max_length} tokens",
        "requests of 2,048 tokens": f"{min(tokens // 2048, max_running)} at once",
    }
    logger.info("the model's memory\n%s", "\n".join(f"  {name:<26}{value}" for name, value in rows.items()))


def freeze_heap() -> None:
    """Take what has been loaded out of the garbage collector's sight: else it would look through all of torch and
    transformers again and again, and every running answer would wait for it."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries report what is still there at the end as leaks


def eos_ids(model: Any) -> frozenset[int]:
    """Tokens that the model ends its answers with."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset(ids if isinstance(ids, list) else [ids])


@torch.inference_mode()
def allocate_cache(family: Family, config: EngineConfig, ranks: Ranks | None = None) -> KVCache:
    """As many pages as the budget holds, of each rank's heads. Raises `InternalError` when not even two tokens fit."""
    model = family.model
    probe = DynamicCache(config=family.text_config)
    ids = torch.zeros((1, 2), dtype=torch.int64, device=model.device)
    positions = family.with_axes(torch.arange(2, device=model.device)[None])
    model(input_ids=ids, position_ids=positions, cache=probe, use_cache=True, logits_to_keep=1)
    max_running, _ = step_limits(config, model.device)
    plan = CachePlan.of(probe)
    budget = kv_budget_bytes(family, config) - (max_running + 1) * plan.state_bytes
    tokens = int(budget // plan.token_bytes)
    if ranks is not None:  # pages have the same numbers everywhere
        tokens = ranks.least(tokens)
    page_size = max(1, min(config.page_tokens, tokens // 2))
    num_pages = tokens // page_size - 1  # one is nobody's
    if num_pages * page_size < 2:
        raise InternalError(f"the KV cache's {budget / GIB:.2f} GiB do not hold a single sequence")
    context = min(family.context_length, config.max_context_tokens or family.context_length, num_pages * page_size)
    cache = KVCache(
        plan,
        num_pages=num_pages,
        page_size=page_size,
        num_states=max(2, max_running),  # the self-check has two sequences
        max_length=context,
        device=model.device,
    )
    if config.prefix_cache:
        cache.enable_prefixes()
    return cache


def kv_budget_bytes(family: Family, config: EngineConfig) -> int:
    """What keys and values may take; by default a share of the GPU memory left by weights and the largest pass."""
    device = family.model.device
    if config.kv_cache_gib is not None:
        return int(config.kv_cache_gib * GIB)
    if device.type != "cuda":
        return int(CPU_KV_CACHE_GIB * GIB)
    pass_bytes = _largest_pass_bytes(family, *step_limits(config, device))
    torch.cuda.empty_cache()
    left = (
        torch.cuda.mem_get_info(device)[0]
        - pass_bytes
        - int((config.encoder_budget_mib + config.reuse_cache_mib) * MIB)
    )
    return int(max(left, 0) * config.kv_cache_share)


def _largest_pass_bytes(family: Family, max_running: int, chunk_tokens: int) -> int:
    """Measured: a chunk as long as they come; and everybody's logits, several times over, while tokens are chosen."""
    model = family.model
    tokens = min(chunk_tokens, family.context_length)
    ids = torch.zeros((1, tokens), dtype=torch.int64, device=model.device)
    positions = family.with_axes(torch.arange(tokens, device=model.device)[None])
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_allocated(model.device)
    model.base_model(input_ids=ids, position_ids=positions, use_cache=False)
    measured = torch.cuda.max_memory_allocated(model.device) - before
    return measured + 8 * 4 * max_running * family.vocab_size
