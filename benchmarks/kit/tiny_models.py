"""Small random checkpoints in the shape of published families, complete with tokenizer, processor and chat template.

    python -m benchmarks tiny_models qwen3_vl DIR

For benchmarks that compare servers on one model which nobody has to download; their answers are noise.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif part.type == 'text' -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_PIXELS = {"shortest_edge": 64 * 64, "longest_edge": 448 * 448}


def save_qwen3_vl(folder: Path) -> None:
    """A Qwen3-VL of some 6 million parameters: patches of 16 pixels, merged by 2, three deepstack layers."""
    demo = AutoTokenizer.from_pretrained(resolve_model(AppConfig()))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=demo.backend_tokenizer,
        eos_token=demo.eos_token,
        pad_token=demo.pad_token,
        extra_special_tokens=QWEN_TOKENS,
    )
    image, video, start, end = tokenizer.convert_tokens_to_ids(list(QWEN_TOKENS.values()))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 32_768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5]},
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_heads": 4,
        "out_hidden_size": 256,
        "num_position_embeddings": 28 * 28,
        "deepstack_visual_indexes": [1, 2, 3],
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, merge_size=2, temporal_patch_size=2, size=_PIXELS),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=16, merge_size=2, temporal_patch_size=2),
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)


SAVERS: dict[str, Callable[[Path], None]] = {"qwen3_vl": save_qwen3_vl}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=sorted(SAVERS))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    SAVERS[arguments.family](arguments.folder)
    print(f"a random {arguments.family} checkpoint is in {arguments.folder}")


if __name__ == "__main__":
    main()
