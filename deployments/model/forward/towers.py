"""Towers that look at several pictures, frames or windows at once: one attention call a layer for all of them.

transformers' own towers loop over the pieces, unless the attention's name says that it takes borders instead.

Shape legend: H heads, N tokens of all pieces, D head dimension.
"""

import inspect
from typing import Any

import torch
from transformers import AttentionInterface

from deployments.model.forward.statements import calls_of
from deployments.model.forward.varlen import varlen

NAME = "flash_varlen"
"""What transformers' towers look for in it is "flash"."""
_ASKS = "is_flash_attention_requested"


def tower_attention(
    module: torch.nn.Module,
    query_1HND: torch.Tensor,
    keys_1HND: torch.Tensor,
    values_1HND: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    max_length_q: int,
    max_length_k: int,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """[1, N, H, D], and no weights. Pieces by their borders; tokens of a piece look at all of it."""
    query, keys, values = (tensor[0].transpose(0, 1) for tensor in (query_1HND, keys_1HND, values_1HND))
    cu_q, cu_k = cu_seq_lens_q.to(torch.int32), cu_seq_lens_k.to(torch.int32)
    out = varlen(query, keys, values, cu_q, cu_k, max_length_q, max_length_k, scale=scaling, causal=False)
    return out[None], None


def speed_up_towers(model: Any) -> int:
    """Let the model's towers attend to all pieces at once where they can; how many attentions do."""
    AttentionInterface.register(NAME, tower_attention)
    found = [module for module in model.modules() if _takes_borders(module)]
    for module in found:
        module.config._attn_implementation = NAME
    return len(found)


def _takes_borders(module: Any) -> bool:
    forward = inspect.unwrap(type(module).forward)
    if "cu_seqlens" not in inspect.signature(forward).parameters or not hasattr(module, "config"):
        return False
    return _ASKS in forward.__code__.co_names and bool(calls_of(forward, (_ASKS,)))
