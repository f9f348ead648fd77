"""Random weights in the full shape of small published models, with tokenizers of as many tokens: nothing is fetched.

What they answer is noise, each token of it some characters; what it costs is what the published weights cost. Sizes are
those of the models' published configurations.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer

from benchmarks.kit.tiny_models import CHAT_TEMPLATE, QWEN_TOKENS
from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model

_IDEFICS_TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
_MOST_ROWS = 6


@dataclass(frozen=True, slots=True)
class Shape:
    """One of them."""

    name: str
    model_class: str
    config: Callable[[hf.PreTrainedTokenizerFast], Any]
    processor: Callable[[hf.PreTrainedTokenizerFast], Any]
    vocabulary: int
    special_tokens: tuple[str, ...]
    media: tuple[str, ...]
    """What a first token is waited for with, as the load generator's mixes name it."""

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """A checkpoint of random weights; takes twice their memory for a while."""
        tokenizer = _tokenizer(self.vocabulary, self.special_tokens)
        torch.manual_seed(0)
        model = getattr(hf, self.model_class)._from_config(self.config(tokenizer), dtype=dtype)
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.save_pretrained(folder)
        self.processor(tokenizer).save_pretrained(folder)


def _smolvlm_config(tokenizer: hf.PreTrainedTokenizerFast) -> Any:
    text = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        **_ends(tokenizer),
    }
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    }
    image = tokenizer.convert_tokens_to_ids("<image>")
    return hf.Idefics3Config(
        text_config=text, vision_config=vision, image_token_id=image, scale_factor=4, **_ends(tokenizer)
    )


def _smolvlm_processor(tokenizer: hf.PreTrainedTokenizerFast) -> Any:
    """A picture is one tile of 512 pixels, 64 tokens: the smallest of the sizes that its authors name."""
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 512}, max_image_size={"longest_edge": 512})
    template = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>")
    return hf.Idefics3Processor(images, tokenizer, image_seq_len=64, chat_template=template)


def _qwen3_vl_config(tokenizer: hf.PreTrainedTokenizerFast) -> Any:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262_144,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
        "tie_word_embeddings": True,
        **_ends(tokenizer),
    }
    vision = {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    }
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in QWEN_TOKENS.items()}
    return hf.Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def _qwen3_vl_processor(tokenizer: hf.PreTrainedTokenizerFast) -> Any:
    half = [0.5, 0.5, 0.5]
    images = hf.Qwen2VLImageProcessor(patch_size=16, merge_size=2, image_mean=half, image_std=half)
    return hf.Qwen3VLProcessor(images, tokenizer, hf.Qwen3VLVideoProcessor(), chat_template=CHAT_TEMPLATE)


def _ends(tokenizer: hf.PreTrainedTokenizerFast) -> dict[str, Any]:
    return {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}


def _tokenizer(size: int, special_tokens: tuple[str, ...]) -> hf.PreTrainedTokenizerFast:
    """The demo's, with tokens that no text is made of up to `size`: whatever a model says has characters."""
    demo = hf.AutoTokenizer.from_pretrained(resolve_model(AppConfig()))
    missing = [token for token in special_tokens if token not in demo.get_vocab()]
    described = json.loads(demo.backend_tokenizer.to_str())
    fillers = size - len(demo) - len(missing)
    described["model"]["vocab"] |= {f"Ġt{number}": len(demo) + number for number in range(fillers)}
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        eos_token=demo.eos_token,
        pad_token=demo.pad_token,
        extra_special_tokens={name: token for name, token in QWEN_TOKENS.items() if token in special_tokens},
    )
    tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)
    return tokenizer


_GRID = tuple(f"<row_{row + 1}_col_{column + 1}>" for row in range(_MOST_ROWS) for column in range(_MOST_ROWS))

SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            "SmolVLM-256M",
            "Idefics3ForConditionalGeneration",
            _smolvlm_config,
            _smolvlm_processor,
            49_280,
            (*_IDEFICS_TOKENS, *_GRID),
            ("640x480",),
        ),
        Shape(
            "Qwen3-VL-2B",
            "Qwen3VLForConditionalGeneration",
            _qwen3_vl_config,
            _qwen3_vl_processor,
            151_936,
            tuple(QWEN_TOKENS.values()),
            ("640x480", "360p@2s"),
        ),
    )
}
