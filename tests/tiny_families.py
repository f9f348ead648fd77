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

VOCAB = 160
IMAGE, VIDEO, AUDIO = 150, 151, 152
VISION_START, VISION_END, AUDIO_START, AUDIO_END = 153, 154, 155, 156
TEXT_IDS = (10, 140)
"""Ordinary tokens lie in this range."""


@dataclass(frozen=True)
class Prompt:
    token_ids: NDArray[np.int32]
    tensors: dict[str, NDArray[Any]]
    use_audio_in_video: bool = False


Piece = tuple[list[int], dict[str, NDArray[Any]]]
"""Tokens of one media item, and its tensors; tensors of several items are joined along their first axis."""


@dataclass(frozen=True)
class TinyFamily:
    name: str
    config: Callable[[], Any]
    model_class: str
    media: dict[str, Callable[[np.random.Generator], Piece]]
    """By kind: `image`, `video`, `audio`."""
    mixable: bool = True
    """Whether pictures and videos may stand in one prompt."""
    embedding_std: float = 1.0
    """Small where the family scales embeddings up."""

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
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
        return model.to(dtype).eval()

    def prompt(self, rng: np.random.Generator, kinds: list[str]) -> Prompt:
        """Text, then each media item followed by text."""
        ids = _text(rng)
        tensors: dict[str, list[NDArray[Any]]] = {}
        for kind in kinds:
            piece_ids, piece = self.media[kind](rng)
            ids += piece_ids + _text(rng)
            for name, array in piece.items():
                tensors.setdefault(name, []).append(array)
        joined = {name: _join(arrays) for name, arrays in tensors.items()}
        return Prompt(np.asarray(ids, dtype=np.int32), joined)


def _join(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    if arrays[0].ndim == 3 and len({array.shape for array in arrays}) > 1:  # sounds of several lengths: padded
        longest = max(array.shape[-1] for array in arrays)
        arrays = [np.pad(array, [(0, 0), (0, 0), (0, longest - array.shape[-1])]) for array in arrays]
    if arrays[0].ndim == 2 and arrays[0].dtype == np.int64 and len({array.shape[1] for array in arrays}) > 1:
        longest = max(array.shape[-1] for array in arrays)
        arrays = [np.pad(array, [(0, 0), (0, longest - array.shape[-1])]) for array in arrays]
    return np.concatenate(arrays)


def _text(rng: np.random.Generator) -> list[int]:
    return [int(i) for i in rng.integers(*TEXT_IDS, size=int(rng.integers(2, 7)))]


def _normal(rng: np.random.Generator, *shape: int) -> NDArray[Any]:
    return rng.normal(size=shape).astype(np.float32)


# ── media of the Qwen and GLM families: patches in rows, grids beside them ───────────────────────────────────────────


def _grid_media(
    pixels: str, grid: str, token: int, *, patch: int, temporal: int = 2, extra: str | None = None, frames: bool = False
) -> Callable[[np.random.Generator], Piece]:
    """`frames`: a video's frames stand apart in the prompt, each between its own start and end tokens."""

    def make(rng: np.random.Generator) -> Piece:
        t = 1 if pixels == "pixel_values" else int(rng.integers(2, 4))
        h, w = (2 * int(n) for n in rng.integers(1, 4, size=2))
        tensors = {
            pixels: _normal(rng, t * h * w, 3 * temporal * patch * patch),
            grid: np.array([[t, h, w]], dtype=np.int64),
        }
        if extra is not None:
            tensors[extra] = np.array([1.0], dtype=np.float32)
        if frames and t > 1:
            ids = [i for _ in range(t) for i in [20, VISION_START, *[token] * (h * w // 4), VISION_END]]
        else:
            ids = [VISION_START, *[token] * (t * h * w // 4), VISION_END]
        return ids, tensors

    return make


def _mel_sound(mels: int, tokens_of: Callable[[int], int]) -> Callable[[np.random.Generator], Piece]:
    def make(rng: np.random.Generator) -> Piece:
        length = int(rng.integers(20, 60))
        ids = [AUDIO_START, *[AUDIO] * tokens_of(length), AUDIO_END]
        mask = np.ones((1, length), dtype=np.int64)
        return ids, {"input_features": _normal(rng, 1, mels, length), "feature_attention_mask": mask}

    return make


_SPECIAL = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
_TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MROPE = {"rope_type": "default", "rope_theta": 50.0, "mrope_section": [2, 1, 1]}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1}


def _qwen2_vl() -> Any:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    return hf.Qwen2VLConfig(text_config={**_TEXT, "rope_parameters": _MROPE}, vision_config=vision, **_SPECIAL)


def _qwen2_5_vl() -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return hf.Qwen2_5_VLConfig(text_config={**_TEXT, "rope_parameters": _MROPE}, vision_config=vision, **_SPECIAL)


_QWEN3_VISION = {
    "depth": 3,
    "hidden_size": 32,
    "out_hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 48,
    "patch_size": 4,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}


def _qwen3_vl() -> Any:
    text = {**_TEXT, "head_dim": 8, "rope_parameters": _MROPE}
    return hf.Qwen3VLConfig(text_config=text, vision_config=_QWEN3_VISION, **_SPECIAL)


def _qwen3_vl_moe() -> Any:
    text = {**_TEXT, **_MOE, "head_dim": 8, "rope_parameters": _MROPE}
    return hf.Qwen3VLMoeConfig(text_config=text, vision_config=_QWEN3_VISION, **_SPECIAL)


def _qwen3_5() -> Any:
    text = {
        **_TEXT,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "rope_parameters": {**_MROPE, "partial_rotary_factor": 0.5},
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    }
    vision = {key: value for key, value in _QWEN3_VISION.items() if key != "deepstack_visual_indexes"}
    return hf.Qwen3_5Config(text_config=text, vision_config=vision, **_SPECIAL)


_OMNI_SPECIAL = {
    "image_token_id": IMAGE,
    "image_token_index": IMAGE,
    "video_token_id": VIDEO,
    "video_token_index": VIDEO,
    "audio_token_id": AUDIO,
    "audio_token_index": AUDIO,
    "audio_start_token_id": AUDIO_START,
    "audio_end_token_id": AUDIO_END,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
    "position_id_per_seconds": 5,
    "seconds_per_chunk": 2,
}


def _qwen2_5_omni() -> Any:
    audio = {
        "num_mel_bins": 16,
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "output_dim": 32,
        "n_window": 10,
    }
    vision = {**_qwen2_5_vl().vision_config.to_dict(), "model_type": "qwen2_5_omni_vision_encoder"}
    config = hf.models.qwen2_5_omni.Qwen2_5OmniThinkerConfig(
        text_config={**_TEXT, "rope_parameters": _MROPE}, vision_config=vision, audio_config=audio
    )
    for name, value in _OMNI_SPECIAL.items():
        setattr(config, name, value)
    return config


def _qwen3_omni_moe() -> Any:
    audio = {
        "num_mel_bins": 16,
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "output_dim": 32,
        "n_window": 50,
        "n_window_infer": 200,
        "downsample_hidden_size": 8,
    }
    text = {**_TEXT, **_MOE, "head_dim": 8, "rope_parameters": _MROPE}
    config = hf.models.qwen3_omni_moe.Qwen3OmniMoeThinkerConfig(
        text_config=text, vision_config=_QWEN3_VISION, audio_config=audio
    )
    for name, value in _OMNI_SPECIAL.items():
        setattr(config, name, value)
    return config


def _glm4v() -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "patch_size": 4,
        "image_size": 32,
    }
    text = {**_TEXT, "rope_parameters": {**_MROPE, "partial_rotary_factor": 1.0}}
    special = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "image_start_token_id": VISION_START,
        "image_end_token_id": VISION_END,
        "video_start_token_id": AUDIO_START,
        "video_end_token_id": AUDIO_END,
    }
    return hf.Glm4vConfig(text_config=text, vision_config=vision, **special)


# ── media of the families with pictures of one size ──────────────────────────────────────────────────────────────────


def _pictures(size: int, tokens: int, **extra: NDArray[Any]) -> Callable[[np.random.Generator], Piece]:
    def make(rng: np.random.Generator) -> Piece:
        return [VISION_START, *[IMAGE] * tokens, VISION_END], {"pixel_values": _normal(rng, 1, 3, size, size), **extra}

    return make


def _siglip(size: int = 16) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": 4,
        "vision_use_head": False,
    }


def _gemma3() -> Any:
    text = {
        **_TEXT,
        "tie_word_embeddings": False,
        "head_dim": 8,
        "num_hidden_layers": 4,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    }
    return hf.Gemma3Config(
        text_config=text,
        vision_config=_siglip(),
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=VISION_START,
        eoi_token_index=VISION_END,
        tie_word_embeddings=False,
    )


def _internvl() -> Any:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": [16, 16],
        "patch_size": [4, 4],
    }
    text = {**_TEXT, "model_type": "qwen2"}
    return hf.InternVLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, downsample_ratio=0.5)


def _llava_onevision() -> Any:
    text = {**_TEXT, "model_type": "qwen2"}
    return hf.LlavaOnevisionConfig(
        text_config=text,
        vision_config=_siglip(),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[16, 16], [16, 32], [32, 16], [32, 32]],
        vision_aspect_ratio="anyres_max_9",
    )


def _llava_onevision_image(rng: np.random.Generator) -> Piece:
    # One base view and one 16x16 tile: 16 base features, then 4 rows of 4 with a newline each.
    pixels = _normal(rng, 1, 2, 3, 16, 16)
    return [*[IMAGE] * (16 + 4 * 5)], {"pixel_values": pixels, "image_sizes": np.array([[16, 16]], dtype=np.int64)}


def _llava_onevision_video(rng: np.random.Generator) -> Piece:
    # 2x2 pooled features of each of three frames, and one newline.
    return [*[VIDEO] * (3 * 4 + 1)], {"pixel_values_videos": _normal(rng, 1, 3, 3, 16, 16)}


def _idefics3() -> Any:
    text = {**_TEXT, "model_type": "llama"}
    vision = {key: value for key, value in _siglip().items() if key not in ("model_type", "vision_use_head")}
    return hf.Idefics3Config(text_config=text, vision_config=vision, image_token_id=IMAGE, scale_factor=2)


def _smolvlm() -> Any:
    text = {**_TEXT, "model_type": "llama"}
    vision = {key: value for key, value in _siglip().items() if key not in ("model_type", "vision_use_head")}
    return hf.SmolVLMConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, scale_factor=2)


def _idefics_image(rng: np.random.Generator) -> Piece:
    ids = [VISION_START, *[IMAGE] * 4, VISION_END]
    return ids, {"pixel_values": _normal(rng, 1, 1, 3, 16, 16)}


def _llava() -> Any:
    text = {**_TEXT, "model_type": "llama"}
    vision = {**_siglip(), "model_type": "clip_vision_model"}
    return hf.LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=IMAGE,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )


def _mistral3() -> Any:
    vision = {
        "model_type": "pixtral",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    text = {**_TEXT, "model_type": "mistral", "head_dim": 8, "sliding_window": None}
    return hf.Mistral3Config(text_config=text, vision_config=vision, image_token_index=IMAGE, spatial_merge_size=2)


def _gemma4() -> Any:
    text = {
        **_TEXT,
        "tie_word_embeddings": False,
        "head_dim": 8,
        "global_head_dim": 16,
        "num_hidden_layers": 6,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCAB,
        "sliding_window": 16,
        "use_bidirectional_attention": "vision",
        "layer_types": [
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
        ],
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 4,
        "pooling_kernel_size": 2,
        "position_embedding_size": 64,
    }
    audio = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "subsampling_conv_channels": [8, 4],
        "output_proj_dims": 32,
        "attention_chunk_size": 4,
        "attention_context_left": 5,
        "attention_context_right": 0,
    }
    return hf.Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_token_id=AUDIO,
        boi_token_id=VISION_START,
        eoi_token_id=VISION_END,
        tie_word_embeddings=False,
    )


def _gemma4_image(rng: np.random.Generator) -> Piece:
    side = 4
    places = np.array([[x, y] for y in range(side) for x in range(side)], dtype=np.int64)
    ids = [VISION_START, *[IMAGE] * (side * side // 4), VISION_END]
    return ids, {"pixel_values": _normal(rng, 1, side * side, 3 * 16), "image_position_ids": places[None]}


def _gemma4_video(rng: np.random.Generator) -> Piece:
    side, frames = 4, int(rng.integers(2, 4))
    places = np.array([[x, y] for y in range(side) for x in range(side)], dtype=np.int64)
    ids = [i for _ in range(frames) for i in [20, VISION_START, *[VIDEO] * (side * side // 4), VISION_END]]
    return ids, {
        "pixel_values_videos": _normal(rng, frames, side * side, 3 * 16),
        "video_position_ids": np.repeat(places[None], frames, axis=0),
        "num_frames_per_video": np.array([frames], dtype=np.int64),
    }


_QWEN2_MEDIA = {
    "image": _grid_media("pixel_values", "image_grid_thw", IMAGE, patch=4),
    "video": _grid_media("pixel_values_videos", "video_grid_thw", VIDEO, patch=4),
}
_QWEN3_MEDIA = {
    "image": _QWEN2_MEDIA["image"],
    "video": _grid_media("pixel_values_videos", "video_grid_thw", VIDEO, patch=4, frames=True),
}
_OMNI_VIDEO = _grid_media("pixel_values_videos", "video_grid_thw", VIDEO, patch=4, extra="video_second_per_grid")


def _omni2_tokens(length: int) -> int:
    return ((length - 1) // 2 + 1 - 2) // 2 + 1


def _omni3_tokens(length: int) -> int:
    rest = length % 100
    after = ((rest - 1) // 2 + 1 - 1) // 2 + 1
    return ((after - 1) // 2 + 1) + (length // 100) * 13


FAMILIES = {
    family.name: family
    for family in (
        TinyFamily("qwen2_vl", _qwen2_vl, "Qwen2VLForConditionalGeneration", _QWEN2_MEDIA),
        TinyFamily("qwen2_5_vl", _qwen2_5_vl, "Qwen2_5_VLForConditionalGeneration", _QWEN2_MEDIA),
        TinyFamily("qwen3_vl", _qwen3_vl, "Qwen3VLForConditionalGeneration", _QWEN3_MEDIA),
        TinyFamily("qwen3_vl_moe", _qwen3_vl_moe, "Qwen3VLMoeForConditionalGeneration", _QWEN3_MEDIA),
        TinyFamily("qwen3_5", _qwen3_5, "Qwen3_5ForConditionalGeneration", _QWEN3_MEDIA),
        TinyFamily(
            "qwen2_5_omni",
            _qwen2_5_omni,
            "Qwen2_5OmniThinkerForConditionalGeneration",
            {"image": _QWEN2_MEDIA["image"], "video": _OMNI_VIDEO, "audio": _mel_sound(16, _omni2_tokens)},
        ),
        TinyFamily(
            "qwen3_omni_moe",
            _qwen3_omni_moe,
            "Qwen3OmniMoeThinkerForConditionalGeneration",
            {"image": _QWEN2_MEDIA["image"], "video": _OMNI_VIDEO, "audio": _mel_sound(16, _omni3_tokens)},
        ),
        TinyFamily(
            "glm4v",
            _glm4v,
            "Glm4vForConditionalGeneration",
            {
                "image": _QWEN2_MEDIA["image"],
                "video": _grid_media("pixel_values_videos", "video_grid_thw", IMAGE, patch=4, frames=True),
            },
            mixable=False,
        ),
        TinyFamily("gemma3", _gemma3, "Gemma3ForConditionalGeneration", {"image": _pictures(16, 4)}, embedding_std=0.2),
        TinyFamily(
            "gemma4",
            _gemma4,
            "Gemma4ForConditionalGeneration",
            {"image": _gemma4_image, "video": _gemma4_video},
            embedding_std=0.2,
        ),
        TinyFamily("internvl", _internvl, "InternVLForConditionalGeneration", {"image": _pictures(16, 4)}),
        TinyFamily(
            "llava_onevision",
            _llava_onevision,
            "LlavaOnevisionForConditionalGeneration",
            {"image": _llava_onevision_image, "video": _llava_onevision_video},
        ),
        TinyFamily("idefics3", _idefics3, "Idefics3ForConditionalGeneration", {"image": _idefics_image}),
        TinyFamily("smolvlm", _smolvlm, "SmolVLMForConditionalGeneration", {"image": _idefics_image}),
        TinyFamily("llava", _llava, "LlavaForConditionalGeneration", {"image": _pictures(16, 16)}),
        TinyFamily(
            "mistral3",
            _mistral3,
            "Mistral3ForConditionalGeneration",
            {"image": _pictures(16, 4, image_sizes=np.array([[16, 16]], dtype=np.int64))},
        ),
    )
}
