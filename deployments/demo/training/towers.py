"""The vision and the audio tower on batches of equal shape: the same arithmetic as their own forward, far fewer calls.

The towers' own code loops over the pieces of a batch, which costs more than the mathematics at this size.
Shape legend: B batch, P patches of a frame pair, N tokens (P / 4), D hidden, M mel bins, F mel frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids

MEAN, STD = (122.77094, 116.74601, 104.09374), (68.50058, 66.63216, 70.32316)
"""Of the three colours, 0 to 255, as the processor has them."""
PATCH, MERGE = 14, 2


def patchify(pairs_BTCHW: Tensor) -> Tensor:
    """Frame pairs (B, 2, C, H, W), 0 to 255, as the video processor's patches (B, P, C * 2 * 14 * 14), normalised."""
    batch, two, channels, height, width = pairs_BTCHW.shape
    mean, std = (pairs_BTCHW.new_tensor(one, dtype=torch.float32)[:, None, None] for one in (MEAN, STD))
    pixels = (pairs_BTCHW - mean) / std
    down, across = height // PATCH // MERGE, width // PATCH // MERGE
    patches = pixels.view(batch, two, channels, down, MERGE, PATCH, across, MERGE, PATCH)
    return patches.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(batch, down * across * MERGE**2, -1)


def see(model: Qwen2_5OmniThinkerForConditionalGeneration, patches_BPX: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, N, D) of frame pairs of `height` x `width` pixels, row by row."""
    visual = model.model.visual
    batch, patches, _ = patches_BPX.shape
    places = get_vision_position_ids(torch.tensor([[1, height // PATCH, width // PATCH]]), MERGE)
    hidden = F.linear(patches_BPX, visual.patch_embed.proj.weight.flatten(1))
    cos, sin = visual.rotary_pos_emb(hidden, places.to(hidden.device))
    for block in visual.blocks:
        attention, normed = block.attn, block.norm1(hidden)
        heads = (batch, patches, attention.num_heads, attention.head_dim)
        query, key = apply_rotary_pos_emb_vision(
            attention.q(normed).view(heads), attention.k(normed).view(heads), cos, sin
        )
        value = attention.v(normed).view(heads)
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        hidden = hidden + attention.proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
    tokens: Tensor = visual.merger(hidden)
    return tokens.view(batch, patches // MERGE**2, -1)


def hear(model: Qwen2_5OmniThinkerForConditionalGeneration, features_BMF: Tensor, lengths: list[int]) -> list[Tensor]:
    """Tokens (N, D) of each sound, of mel features padded to the longest; `lengths` counts each sound's mel frames.

    Sounds fit into one chunk of the tower: ten seconds.
    """
    tower = model.model.audio_tower
    frames = torch.tensor(lengths, device=features_BMF.device)
    heard = torch.arange(features_BMF.shape[2], device=frames.device) < frames[:, None]
    hidden = F.gelu(tower.conv1(features_BMF * heard[:, None])) * heard[:, None]
    hidden = F.gelu(tower.conv2(hidden)).transpose(1, 2)
    hidden = hidden + tower.positional_embedding.positional_embedding[: hidden.shape[1]]
    kept = (frames - 1) // 2 + 1
    mask = (torch.arange(hidden.shape[1], device=frames.device) < kept[:, None])[:, None, None]
    for layer in tower.layers:
        attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
        query, key, value = (
            project(normed).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden = hidden + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
    pooled = [hidden[row, : count // 2 * 2].unflatten(0, (-1, 2)).mean(1) for row, count in enumerate(kept.tolist())]
    tokens = tower.proj(tower.ln_post(torch.cat(pooled)))
    return list(tokens.split([len(rows) for rows in pooled]))
