"""A random Qwen3-VL in the shape of the 8B one, or a tiny one, and prompts for it."""

from typing import Any

import numpy as np
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from benchmarks.kit.engine_load import Prompt
from deployments.types import PixelNorm

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
_TINY_TOWER = {"depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128, "deepstack_visual_indexes": [0]}
_IDS = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
_PATCH = 3 * 2 * 16 * 16
NORM = PixelNorm(1 / 255, (0.5,) * 3, (0.5,) * 3, "flat_channel_major")


def random_model(device: torch.device) -> Any:
    """In evaluation mode, on `device`: large and in bfloat16 on a card, tiny and in float32 elsewhere."""
    large = device.type == "cuda"
    shape = _LARGE if large else _TINY
    tower = {**({} if large else _TINY_TOWER), "out_hidden_size": shape["hidden_size"]}
    config = Qwen3VLConfig(text_config=shape, vision_config=tower, **_IDS)
    torch.set_default_dtype(torch.bfloat16 if large else torch.float32)
    try:
        with torch.device(device):
            model = Qwen3VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def media_prompt(rng: np.random.Generator, grid: tuple[int, int, int], question: int = 12) -> Prompt:
    """A picture (one frame) or a clip of `grid` (time, height, width) patches, then so many tokens of text."""
    frames, height, width = grid
    clip = frames > 1
    token = _IDS["video_token_id"] if clip else _IDS["image_token_id"]
    ids: list[int] = []
    for _ in range(frames):
        places = [token] * (height * width // 4)
        ids += [20, _IDS["vision_start_token_id"], *places, _IDS["vision_end_token_id"]]
    pixels = rng.integers(0, 256, size=(frames * height * width, _PATCH), dtype=np.uint8)
    names = ("pixel_values_videos", "video_grid_thw") if clip else ("pixel_values", "image_grid_thw")
    tensors = dict(zip(names, (pixels, np.array([grid], dtype=np.int64)), strict=True))
    return another_question(rng, (np.array(ids, dtype=np.int32), tensors), question)


def another_question(rng: np.random.Generator, prompt: Prompt, question: int = 12) -> Prompt:
    """The same media, other text behind them."""
    ids, tensors = prompt
    media = ids[: np.flatnonzero(ids == _IDS["vision_end_token_id"])[-1] + 1] if tensors else ids
    return np.concatenate([media, rng.integers(20, 250, size=question)]).astype(np.int32), tensors
