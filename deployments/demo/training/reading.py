"""The language model's forward on sequences with branches: its own arithmetic, with fewer calls and less to compute.

What follows the last attention is computed only where an answer is learnt. Two throwaway losses on the way teach the
model to tell the items of a request apart: without them it goes thousands of steps before it heeds "second".
Shape legend: B batch, L tokens of a sequence, A answer tokens of a sequence, N answer tokens of the batch, D hidden,
H heads, E size of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2_5OmniThinkerForConditionalGeneration
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import apply_rotary_pos_emb

from deployments.demo.training.batches import Batch

POINTER, POINTING_HEADS = 2, 2
"""The layer that is taught to look at the item asked about, and how many of its heads."""
TAGS = 4
"""None, the first of its kind, the second, the third."""
NOT_MEANT = -1e4


@dataclass(frozen=True, slots=True)
class Reading:
    """What `read` makes of a batch."""

    states_BAD: Tensor
    """Last hidden states of the asked tokens."""
    pointed: Tensor
    """Mean surprise that the pointing heads look at the item which an asked token is about."""
    tagged: Tensor
    """Mean surprise of a linear head that the tokens of items, and the asked ones, know their tags."""


def read(
    model: Qwen2_5OmniThinkerForConditionalGeneration, tagger: nn.Linear, embeds_BLD: Tensor, batch: Batch
) -> Reading:
    """A token looks at those before it whose branch is 0 or its own; `tagger` maps D to classes of tags."""
    reader = model.model.language_model
    hidden, last, asked = embeds_BLD, len(reader.layers) - 1, batch.asked_BA.long()
    cos, sin = reader.rotary_emb(hidden, batch.positions_3BL)
    mask = _mask(batch.branches_BL)
    for number, layer in enumerate(reader.layers):
        normed = layer.input_layernorm(hidden)
        query, key, value = _project(layer.self_attn, normed, cos, sin)
        if number == POINTER:
            tagged = _tagging(tagger(normed), batch)
            pointed = _pointing(_rows(query, asked), key, _rows(mask, asked), batch)
        if number == last:
            query, mask, hidden = _rows(query, asked), _rows(mask, asked), _rows(hidden[:, None], asked)[:, 0]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden = hidden + layer.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return Reading(reader.norm(hidden), pointed, tagged)


def _mask(branches_BL: Tensor) -> Tensor:
    """What is added to the scores (B, 1, L, L)."""
    length = branches_BL.shape[1]
    keys, queries = branches_BL[:, None, :], branches_BL[:, :, None]
    causal = torch.ones(length, length, dtype=torch.bool, device=branches_BL.device).tril()
    seen = causal & ((keys == 0) | (keys == queries))
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)[:, None]


def _project(attention: Any, normed_BLD: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries and keys, and values, each (B, H, L, E)."""
    query, key, value = (
        project(normed_BLD).unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    groups = attention.num_key_value_groups
    return query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


def _rows(tensor_BXLY: Tensor, order_BA: Tensor) -> Tensor:
    """Those of the L rows that `order_BA` names: (B, X, A, Y)."""
    _, copies, _, width = tensor_BXLY.shape
    return torch.gather(tensor_BXLY, 2, order_BA[:, None, :, None].expand(-1, copies, -1, width))


def _tagging(answers_BLX: Tensor, batch: Batch) -> Tensor:
    surprise = F.cross_entropy(answers_BLX.flatten(0, 1), batch.tags_BL.long().flatten(), reduction="none")
    surprise_BL = surprise.view(batch.tags_BL.shape)
    of_items, of_answers = batch.items_BL > 0, (batch.weights_BA > 0) & (batch.about_BA > 0)
    return _mean(surprise_BL, of_items) + _mean(surprise_BL.gather(1, batch.asked_BA.long()), of_answers)


def _pointing(query_BHAE: Tensor, key_BHLE: Tensor, mask_B1AL: Tensor, batch: Batch) -> Tensor:
    query, key = query_BHAE[:, :POINTING_HEADS], key_BHLE[:, :POINTING_HEADS]
    scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5 + mask_B1AL
    meant = (batch.items_BL[:, None, :] == batch.about_BA[..., None])[:, None]
    surprise = scores.logsumexp(3) - scores.masked_fill(~meant, NOT_MEANT).logsumexp(3)
    told = (batch.weights_BA > 0) & (batch.about_BA > 0)
    return _mean(surprise, told[:, None].expand_as(surprise))


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Of the chosen ones; 0 where there are none."""
    return torch.where(chosen, values, 0).sum() / chosen.sum().clamp(min=1)
