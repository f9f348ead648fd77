"""What a checkpoint's `config.json` says of its language model, and whether that can be divided among ranks."""

from collections.abc import Mapping
from typing import Any

_DIVIDED = (
    "num_attention_heads",
    "num_key_value_heads",
    "num_global_key_value_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
)
"""Sizes of which every rank of tensor parallelism takes an equal part."""


def text_sizes(model_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's own part of a configuration; all of it where it has no parts."""
    text = model_config.get("text_config") or (model_config.get("thinker_config") or {}).get("text_config")
    return text if isinstance(text, Mapping) else model_config


def indivisible(model_config: Mapping[str, Any], ranks: int) -> str | None:
    """Why the model can't be divided among so many ranks, as one sentence; None where nothing speaks against it."""
    if ranks == 1:
        return None
    if model_config.get("quantization_config"):
        return f"engine.tensor_parallel: {ranks} takes weights that can be cut, and the checkpoint is quantised"
    sizes = text_sizes(model_config)
    for name in _DIVIDED:
        size = sizes.get(name)
        if isinstance(size, int) and size % ranks:
            return f"engine.tensor_parallel: {ranks} ranks do not divide the model's {name} of {size}"
    return None
