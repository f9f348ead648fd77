"""Configurations of the tiny checkpoints: every kind of layer that the published ones have, at the smallest size.

The ids of placeholders are the same in all of them.
"""

from typing import Any

import transformers as hf

VOCAB = 160
IMAGE, VIDEO, AUDIO = 150, 151, 152
POSITIONS_PER_SECOND, SECONDS_PER_CHUNK = 5, 2
"""Of the families that interleave frames and sound."""
VISION_START, VISION_END, AUDIO_START, AUDIO_END = 153, 154, 155, 156

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


def qwen2_vl() -> Any:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    return hf.Qwen2VLConfig(text_config={**_TEXT, "rope_parameters": _MROPE}, vision_config=vision, **_SPECIAL)


def qwen2_5_vl() -> Any:
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


def qwen3_vl() -> Any:
    text = {**_TEXT, "head_dim": 8, "rope_parameters": _MROPE}
    return hf.Qwen3VLConfig(text_config=text, vision_config=_QWEN3_VISION, **_SPECIAL)


def qwen3_vl_moe() -> Any:
    text = {**_TEXT, **_MOE, "head_dim": 8, "rope_parameters": _MROPE}
    return hf.Qwen3VLMoeConfig(text_config=text, vision_config=_QWEN3_VISION, **_SPECIAL)


def qwen3_5() -> Any:
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
    "position_id_per_seconds": POSITIONS_PER_SECOND,
    "seconds_per_chunk": SECONDS_PER_CHUNK,
}


def qwen2_5_omni() -> Any:
    audio = {
        "num_mel_bins": 16,
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "output_dim": 32,
        "n_window": 10,
    }
    vision = {**qwen2_5_vl().vision_config.to_dict(), "model_type": "qwen2_5_omni_vision_encoder"}
    config = hf.models.qwen2_5_omni.Qwen2_5OmniThinkerConfig(
        text_config={**_TEXT, "rope_parameters": _MROPE}, vision_config=vision, audio_config=audio
    )
    for name, value in _OMNI_SPECIAL.items():
        setattr(config, name, value)
    return config


def qwen3_omni_moe() -> Any:
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


def glm4v() -> Any:
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


def gemma3() -> Any:
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


def internvl() -> Any:
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


def llava_onevision() -> Any:
    text = {**_TEXT, "model_type": "qwen2"}
    return hf.LlavaOnevisionConfig(
        text_config=text,
        vision_config=_siglip(),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[16, 16], [16, 32], [32, 16], [32, 32]],
        vision_aspect_ratio="anyres_max_9",
    )


def idefics3() -> Any:
    text = {**_TEXT, "model_type": "llama"}
    vision = {key: value for key, value in _siglip().items() if key not in ("model_type", "vision_use_head")}
    return hf.Idefics3Config(text_config=text, vision_config=vision, image_token_id=IMAGE, scale_factor=2)


def smolvlm() -> Any:
    text = {**_TEXT, "model_type": "llama"}
    vision = {key: value for key, value in _siglip().items() if key not in ("model_type", "vision_use_head")}
    return hf.SmolVLMConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, scale_factor=2)


def llava() -> Any:
    text = {**_TEXT, "model_type": "llama"}
    vision = {**_siglip(), "model_type": "clip_vision_model"}
    return hf.LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=IMAGE,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )


def mistral3() -> Any:
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


def gemma4() -> Any:
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
