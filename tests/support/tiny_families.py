"""Tiny random checkpoints of many model families, made from transformers' own classes, and prompts for them.

Weights are drawn wide, so that greedy answers differ by prompt and by media; everything runs in float64, so that the
rounding of a batched matrix product can not decide between two tokens: what the tests compare is positions, caches and
masks. Prompts and tensors are made by hand, without processors.

Shape legend: T tokens, N patches, P values of a patch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers as hf
from numpy.typing import NDArray

from tests.support import tiny_configs as configs
from tests.support import tiny_media as media
from tests.support.tiny_configs import IMAGE, VIDEO
from tests.support.tiny_media import Piece

TEXT_IDS = (10, 140)
"""Ordinary tokens lie in this range."""


@dataclass(frozen=True)
class Prompt:
    token_ids: NDArray[np.int32]
    tensors: dict[str, NDArray[Any]]
    use_audio_in_video: bool = False


@dataclass(frozen=True)
class TinyFamily:
    name: str
    config: Callable[[], Any]
    model_class: str
    media: dict[str, Callable[[np.random.Generator], Piece]]
    """By kind: `image`, `video`, `audio`."""
    mixable: bool = True
    """Whether pictures and videos may stand in one prompt."""
    float32_parts: tuple[str, ...] = ()
    """Modules of the base model that compute in nothing wider."""
    sounding: Callable[[np.random.Generator], Piece] | None = None
    """A clip whose sound stands between its frames (`use_audio_in_video`), where the family knows such."""
    embedding_std: float = 1.0
    """Small where the family scales embeddings up."""

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Any:
        torch.manual_seed(seed)
        model = getattr(hf, self.model_class)(self.config())
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # the grouped product knows no float64
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                fan_in = parameter.shape[-1] if "experts" in name else parameter[0].numel()
                std = self.embedding_std if "embed_tokens" in name else 1.6 / math.sqrt(fan_in)
                torch.nn.init.normal_(parameter, std=std)
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        model = model.to(dtype).eval()
        for name in self.float32_parts if dtype is torch.float64 else ():
            getattr(model.base_model, name).float()
        return model.to(device)

    def prompt(self, rng: np.random.Generator, kinds: list[str]) -> Prompt:
        """Text, then each media item followed by text. `sounding` is a kind of its own."""
        ids = _text(rng)
        tensors: dict[str, list[NDArray[Any]]] = {}
        makers = self.media if self.sounding is None else {**self.media, "sounding": self.sounding}
        for kind in kinds:
            piece_ids, piece = makers[kind](rng)
            ids += piece_ids + _text(rng)
            for name, array in piece.items():
                tensors.setdefault(name, []).append(array)
        joined = {name: _join(arrays) for name, arrays in tensors.items()}
        return Prompt(np.asarray(ids, dtype=np.int32), joined, "sounding" in kinds)


def _join(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Along the first axis; shorter ones are padded to the longest along the others."""
    shape = np.max([array.shape[1:] for array in arrays], axis=0)
    padding = [[(0, 0), *((0, int(n)) for n in shape - array.shape[1:])] for array in arrays]
    return np.concatenate([np.pad(array, pad) for array, pad in zip(arrays, padding, strict=True)])


def _text(rng: np.random.Generator) -> list[int]:
    return [int(i) for i in rng.integers(*TEXT_IDS, size=int(rng.integers(2, 7)))]


_QWEN2_MEDIA = {
    "image": media.grid_media("pixel_values", "image_grid_thw", IMAGE, patch=4),
    "video": media.grid_media("pixel_values_videos", "video_grid_thw", VIDEO, patch=4),
}
_QWEN3_MEDIA = {
    "image": _QWEN2_MEDIA["image"],
    "video": media.grid_media("pixel_values_videos", "video_grid_thw", VIDEO, patch=4, frames=True),
}
_OMNI_VIDEO = media.grid_media("pixel_values_videos", "video_grid_thw", VIDEO, patch=4, extra="video_second_per_grid")

FAMILIES = {
    family.name: family
    for family in (
        TinyFamily("qwen2_vl", configs.qwen2_vl, "Qwen2VLForConditionalGeneration", _QWEN2_MEDIA),
        TinyFamily("qwen2_5_vl", configs.qwen2_5_vl, "Qwen2_5_VLForConditionalGeneration", _QWEN2_MEDIA),
        TinyFamily("qwen3_vl", configs.qwen3_vl, "Qwen3VLForConditionalGeneration", _QWEN3_MEDIA),
        TinyFamily("qwen3_vl_moe", configs.qwen3_vl_moe, "Qwen3VLMoeForConditionalGeneration", _QWEN3_MEDIA),
        TinyFamily("qwen3_5", configs.qwen3_5, "Qwen3_5ForConditionalGeneration", _QWEN3_MEDIA),
        TinyFamily(
            "qwen2_5_omni",
            configs.qwen2_5_omni,
            "Qwen2_5OmniThinkerForConditionalGeneration",
            {"image": _QWEN2_MEDIA["image"], "video": _OMNI_VIDEO, "audio": media.mel_sound(16, media.omni2_tokens)},
            sounding=media.omni2_sounding_clip,
        ),
        TinyFamily(
            "qwen3_omni_moe",
            configs.qwen3_omni_moe,
            "Qwen3OmniMoeThinkerForConditionalGeneration",
            {"image": _QWEN2_MEDIA["image"], "video": _OMNI_VIDEO, "audio": media.mel_sound(16, media.omni3_tokens)},
            sounding=media.omni3_sounding_clip,
        ),
        TinyFamily(
            "glm4v",
            configs.glm4v,
            "Glm4vForConditionalGeneration",
            {
                "image": _QWEN2_MEDIA["image"],
                "video": media.grid_media("pixel_values_videos", "video_grid_thw", IMAGE, patch=4, frames=True),
            },
            mixable=False,
        ),
        TinyFamily(
            "gemma3",
            configs.gemma3,
            "Gemma3ForConditionalGeneration",
            {"image": media.pictures(16, 4)},
            embedding_std=0.2,
        ),
        TinyFamily(
            "gemma4",
            configs.gemma4,
            "Gemma4ForConditionalGeneration",
            {"image": media.gemma4_image, "video": media.gemma4_video, "audio": media.gemma4_sound},
            embedding_std=0.2,
            float32_parts=("audio_tower", "embed_audio"),
        ),
        TinyFamily("internvl", configs.internvl, "InternVLForConditionalGeneration", {"image": media.pictures(16, 4)}),
        TinyFamily(
            "llava_onevision",
            configs.llava_onevision,
            "LlavaOnevisionForConditionalGeneration",
            {"image": media.llava_onevision_image, "video": media.llava_onevision_video},
        ),
        TinyFamily("idefics3", configs.idefics3, "Idefics3ForConditionalGeneration", {"image": media.idefics_image}),
        TinyFamily("smolvlm", configs.smolvlm, "SmolVLMForConditionalGeneration", {"image": media.idefics_image}),
        TinyFamily("llava", configs.llava, "LlavaForConditionalGeneration", {"image": media.pictures(16, 16)}),
        TinyFamily(
            "mistral3",
            configs.mistral3,
            "Mistral3ForConditionalGeneration",
            {"image": media.pictures(16, 4, image_sizes=np.array([[16, 16]], dtype=np.int64))},
        ),
    )
}
