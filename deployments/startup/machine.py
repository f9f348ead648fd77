"""Does this machine have what the settings ask for: a card, and memory for weights and cache?"""

from pathlib import Path
from typing import Any

from deployments.config import AppConfig
from deployments.core.model_config import indivisible, text_sizes
from deployments.startup.model_files import ModelFiles
from deployments.startup.settings import WrongSetting

GIB = 2**30
FEWEST_TOKENS = 64
"""A KV cache for less than that serves nobody."""

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MEMINFO = Path("/proc/meminfo")


def check_machine(config: AppConfig, files: ModelFiles, num_gpus: float) -> None:
    """Hold the settings against this machine. `num_gpus`: what a model replica asks Ray for, all ranks together.

    Raises `WrongSetting` for a card that is not there, for what does not fit in memory, and for a model that can't be
    divided. Asks torch only where the settings ask for a card, because importing it takes seconds.
    """
    if (why := indivisible(files.config, config.engine.tensor_parallel)) is not None:
        raise WrongSetting(f"args.{why}")
    cards = card_bytes() if config.device == "cuda" or num_gpus else []
    if config.device == "cuda" and not cards:
        raise WrongSetting("args.device is 'cuda', but torch finds no GPU on this machine: set it to 'auto' or 'cpu'")
    if num_gpus > len(cards):
        raise WrongSetting(
            f"deployments: Model asks for num_gpus: {num_gpus:g}, but this machine has"
            f" {f'{len(cards)} of them' if cards else 'no GPU that torch can use'}"
        )
    on_card = bool(cards) and config.device != "cpu"
    check_memory(config, files, cards[0] if on_card else available_bytes(), on_card=on_card)
    check_cache(config, files, on_card=on_card)


def check_memory(config: AppConfig, files: ModelFiles, room_bytes: int, *, on_card: bool) -> None:
    """Raise `WrongSetting` where the weights alone are more than `room_bytes`, a rank's part of them on a card."""
    if files.parameters is None:
        return
    needed = files.parameters * _item_bytes(config, files, on_card=on_card)
    if on_card:
        needed //= config.engine.tensor_parallel
    if needed > room_bytes:
        where = "the GPU has" if on_card else "this machine has free"
        raise WrongSetting(
            f"args.model: the weights of {config.model!r} take {needed / GIB:.1f} GiB as"
            f" {_dtype(config, files, on_card=on_card)}, and {where} {room_bytes / GIB:.1f} GiB"
        )


def check_cache(config: AppConfig, files: ModelFiles, *, on_card: bool) -> None:
    """Raise `WrongSetting` where `kv_cache_gib` is too little for a single short sequence of a plain transformer."""
    share = config.engine.kv_cache_gib
    token_bytes = kv_token_bytes(files.config, _item_bytes(config, files, on_card=on_card))
    if share is None or token_bytes is None:
        return
    token_bytes //= config.engine.tensor_parallel
    tokens = int(share * GIB / token_bytes)
    if tokens < FEWEST_TOKENS:
        raise WrongSetting(
            f"args.engine.kv_cache_gib: {share:g} GiB hold {tokens} tokens of this model, {token_bytes} bytes each;"
            f" {FEWEST_TOKENS} are the least that is of use"
        )


def kv_token_bytes(model_config: dict[str, Any], item_bytes: int) -> int | None:
    """Keys and values of one token; None for models whose configuration does not name what is needed."""
    sizes = text_sizes(model_config)
    layers, heads = sizes.get("num_hidden_layers"), sizes.get("num_attention_heads")
    kv_heads, hidden = sizes.get("num_key_value_heads", heads), sizes.get("hidden_size")
    if not (layers and heads and kv_heads and hidden):
        return None
    return int(2 * layers * kv_heads * (sizes.get("head_dim") or hidden // heads) * item_bytes)


def card_bytes() -> list[int]:
    """Memory of each GPU that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_properties(card).total_memory for card in range(torch.cuda.device_count())]


def available_bytes() -> int:
    """Memory that a new process may take here: what the kernel can give, within the container's limit."""
    free = 0
    for line in _MEMINFO.read_text(encoding="ascii").splitlines() if _MEMINFO.exists() else ():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    try:
        limit = int(_CGROUP_LIMIT.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no limit, or no such file
        limit = free
    return min(free, limit) if free else 2**63


def _dtype(config: AppConfig, files: ModelFiles, *, on_card: bool) -> str:
    """As the model is loaded: `dtype: auto` is the checkpoint's own on a card, float32 on a CPU."""
    if config.dtype != "auto":
        return config.dtype
    own = files.config.get("dtype") or files.config.get("torch_dtype")
    return str(own) if on_card and own in _ITEM_BYTES else "float32"


def _item_bytes(config: AppConfig, files: ModelFiles, *, on_card: bool) -> int:
    return _ITEM_BYTES[_dtype(config, files, on_card=on_card)]
