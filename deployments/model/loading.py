"""From a configuration to a model that is ready to serve: weights, cache, checks, warm-up. Knows no Ray."""

import atexit
import gc
import logging
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    CompressedTensorsConfig,
)
from transformers.cache_utils import DynamicCache

from deployments.config import AppConfig, EngineConfig
from deployments.core.checkpoint import resolve_model
from deployments.core.model_config import indivisible
from deployments.errors import InternalError
from deployments.model.engine.engine import Engine
from deployments.model.engine.step_budget import StepBudget
from deployments.model.families.family import Family
from deployments.model.families.known import known
from deployments.model.forward.encoder import Encoder
from deployments.model.forward.recorder import CudaRecorder
from deployments.model.forward.runner import ModelRunner
from deployments.model.forward.self_check import check_text, warm_up, warn_unverified
from deployments.model.forward.speed_up import speed_up
from deployments.model.forward.tower_warm_up import warm_up_towers
from deployments.model.kv_cache.cache import KVCache
from deployments.model.kv_cache.store import CachePlan
from deployments.model.multimodal.digests import Digests
from deployments.model.multimodal.encoder_cache import EncoderCache
from deployments.model.multimodal.request_media import MediaMemory
from deployments.model.multimodal.uploads import Uploads
from deployments.model.parallel.leader import Leader
from deployments.model.parallel.ranks import Ranks
from deployments.model.parallel.shards import shard
from deployments.model.sampling.recorded_draws import RecordedDraws
from deployments.model.sampling.sampler import Sampler
from deployments.model.sampling.under_way import read_back
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
    if leader is None:
        model = load_model(config, device)
        engine = build_engine(model, config.engine, sink)
    else:
        with leader.together():
            model = load_model(config, device, leader.meet(device))
            leader.begin()
            engine = build_engine(model, config.engine, sink, leader=leader)
    freeze_heap()
    return Loaded(engine, eos_ids(model), engine.family.vocab_size)


def start_device(config: AppConfig) -> torch.device:
    """Where this process computes, set up."""
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    return pick_device(config.device)


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
    runner = ModelRunner(family, cache, Encoder(family, uploads, kept, digests), uploads)
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
    runner = ModelRunner(family, cache, Encoder(family, uploads, None), uploads)
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


def pick_device(wanted: str) -> torch.device:
    """`auto`: a GPU where this process sees one."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def load_model(config: AppConfig, device: torch.device, ranks: Ranks | None = None) -> Any:
    """The checkpoint's weights on `device`, in evaluation mode; transformers shows a progress bar.

    With `ranks` this rank's part of them: the whole is read into the host's memory, and cut before it is moved.
    """
    path = resolve_model(config)
    if config.dtype == "auto":
        dtype: Any = torch.float32 if device.type == "cpu" else "auto"
    else:
        dtype = getattr(torch, config.dtype)
    kind = AutoConfig.from_pretrained(path, **config.hub_options())
    loader = _loader(kind)
    if getattr(kind, "quantization_config", None) is None:
        model = loader.from_pretrained(path, dtype=dtype, **config.hub_options())
        if ranks is not None:
            shard(model, ranks)
        return model.to(device).eval()
    if ranks is not None:
        raise InternalError(f"{indivisible(kind.to_dict(), ranks.size)}")
    return _quantised(loader, path, kind, dtype=dtype, device=device, **config.hub_options())


def _quantised(loader: Any, path: Any, kind: Any, *, device: torch.device, **options: Any) -> Any:
    """Where weights stay packed they are brought to the device as they are read: they can't be moved afterwards.
    transformers wants `accelerate` for that.

    Raises `InternalError` naming the package that the format needs and this installation lacks.
    """
    found = kind.quantization_config
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    unpacked = method == "compressed-tensors"
    if not unpacked and device.type != "cpu":
        options["device_map"] = {"": device}
    try:
        if unpacked:  # else it happens at the first pass, and each pass rounds anew what is rounded
            options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
        model = loader.from_pretrained(path, **options)
    except (ImportError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InternalError(f"the checkpoint is quantised ({method}) and can not be loaded here: {why}") from error
    return (model.to(device) if unpacked else model).eval()


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


def _loader(kind: Any) -> Any:
    if (part := known(kind.model_type).part) is not None:
        return getattr(transformers, part)
    for loader in (AutoModelForMultimodalLM, AutoModelForImageTextToText, AutoModelForCausalLM):
        if type(kind) in loader._model_mapping:
            return loader
    raise InternalError(f"models of the family {kind.model_type!r} are not served: transformers has no decoder for it")
