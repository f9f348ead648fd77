"""Attention of prefill chunks and a decode step in one forward pass: all layers but this one see one row of tokens.

transformers looks attention functions up by a name in the configuration. Ours is its own `sdpa`, except in passes that
are given a `JointSpan`: there it cuts the row into its pieces, each of which looks at its own slots of the cache.

Shape legend: H heads, Q tokens of a chunk, R rows of a decode step, N = Q1 + Q2 + ... + R tokens in all, D head
dimension, S slots, L positions.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from deployments.model.kv_cache.spans import JointSpan

NAME = "sdpa_joint"


def joint_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    joint_span: JointSpan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """With a `joint_span`: [1, H, N, D] queries over the whole storage [S, H, L, D] of a layer; else plain `sdpa`."""

    def attend(query: torch.Tensor, rows: slice, stop: int, mask: torch.Tensor | None) -> torch.Tensor:
        keys, values = key[rows, :, :stop], value[rows, :, :stop]
        out: torch.Tensor = sdpa_attention_forward(module, query, keys, values, mask, **kwargs)[0]
        return out

    if joint_span is None:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return found
    outs_QHD = []
    for chunk, mask, place in joint_span.pieces:
        rows = slice(chunk.slot, chunk.slot + 1)
        outs_QHD.append(attend(query[:, :, place], rows, chunk.start + chunk.length, mask)[0])
    step = joint_span.decode
    if step is not None:
        query_RH1D = query[0, :, joint_span.num_prompt :].transpose(0, 1)[:, :, None]
        outs_QHD.append(attend(query_RH1D, slice(step.rows), step.width, joint_span.decode_mask)[:, 0])
    return torch.cat(outs_QHD)[None], None


def install(text_config: Any) -> bool:
    """Make a language model's layers use it; False where they compute attention in another way than by `sdpa`."""
    if text_config._attn_implementation not in ("sdpa", NAME):
        return False
    AttentionInterface.register(NAME, joint_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    text_config._attn_implementation = NAME
    return True
