"""Processors of many families, made from transformers' own classes with a tokenizer of bytes: nothing is downloaded."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
    GotOcr2ImageProcessor,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2_5OmniProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    WhisperFeatureExtractor,
)

from deployments.preprocessor.loading import Checkpoint

CONTEXT_LENGTH = 4096

TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% for part in message.content -%}
{%- if part.type == 'text' -%}{{ part.text }}
KINDS
{%- endif -%}
{%- endfor -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


def template(**places: str) -> str:
    """A chat template that writes `places[kind]` for a part of that kind."""
    kinds = "".join(f"{{%- elif part.type == '{kind}' -%}}{text}\n" for kind, text in places.items())
    return TEMPLATE.replace("KINDS\n", kinds)


def byte_tokenizer(*tokens: str, **named: str) -> PreTrainedTokenizerFast:
    """One token a byte, and the special `tokens`; `named` become attributes as `image_token="<image>"`."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", *tokens, *named.values()]
    backend.add_special_tokens(list(dict.fromkeys(specials)))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=named
    )


BUDGET = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28}
CLIP_BUDGET = {"shortest_edge": 4 * 32 * 32, "longest_edge": 96 * 32 * 32}
QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_TEMPLATE = template(
    image="<|vision_start|><|image_pad|><|vision_end|>", video="<|vision_start|><|video_pad|><|vision_end|>"
)
OMNI_TOKENS = {
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
OMNI_TEMPLATE = template(
    image="<|vision_bos|><|IMAGE|><|vision_eos|>",
    video="<|vision_bos|><|VIDEO|><|vision_eos|>",
    audio="<|audio_bos|><|AUDIO|><|audio_eos|>",
)


def qwen2_vl(cls: Any = Qwen2VLProcessor) -> Any:
    images, videos = Qwen2VLImageProcessor(size=BUDGET), Qwen2VLVideoProcessor(size=BUDGET, cap_pixels_per_frame=False)
    return cls(images, byte_tokenizer(*QWEN_TOKENS), videos, chat_template=QWEN_TEMPLATE)


def qwen3_vl() -> Any:
    size, half = {"shortest_edge": 4 * 32**2, "longest_edge": 16 * 32**2}, [0.5, 0.5, 0.5]
    images = Qwen2VLImageProcessor(patch_size=16, size=size, image_mean=half, image_std=half)
    videos = Qwen3VLVideoProcessor(size=CLIP_BUDGET, cap_pixels_per_frame=False)
    return Qwen3VLProcessor(images, byte_tokenizer(*QWEN_TOKENS), videos, chat_template=QWEN_TEMPLATE)


def qwen2_5_omni() -> Any:
    images, videos = Qwen2VLImageProcessor(size=BUDGET), Qwen2VLVideoProcessor(size=BUDGET, cap_pixels_per_frame=False)
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=10)
    tokenizer = byte_tokenizer(**OMNI_TOKENS)
    return Qwen2_5OmniProcessor(images, videos, extractor, tokenizer, chat_template=OMNI_TEMPLATE)


def qwen3_omni() -> Any:
    images = Qwen2VLImageProcessor(patch_size=16, size={"shortest_edge": 4 * 32**2, "longest_edge": 16 * 32**2})
    videos = Qwen2VLVideoProcessor(patch_size=16, size={"shortest_edge": 4 * 32**2, "longest_edge": 16 * 32**2})
    extractor = WhisperFeatureExtractor(feature_size=128)
    tokenizer = byte_tokenizer(**OMNI_TOKENS)
    return Qwen3OmniMoeProcessor(images, videos, extractor, tokenizer, chat_template=OMNI_TEMPLATE)


def gemma3() -> Any:
    tokenizer = byte_tokenizer(
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>"
    )
    images = Gemma3ImageProcessor(size={"height": 56, "width": 56})
    return Gemma3Processor(images, tokenizer, chat_template=template(image="<start_of_image>"), image_seq_length=16)


def gemma4() -> Any:
    tokenizer = byte_tokenizer(
        image_token="<|image|>",
        boi_token="<|image>",
        eoi_token="<image|>",
        audio_token="<|audio|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
    )
    return Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(max_soft_tokens=70),
        tokenizer,
        Gemma4VideoProcessor(max_soft_tokens=70),
        chat_template=template(image="<|image|>", video="<|video|>", audio="<|audio|>"),
    )


def internvl() -> Any:
    tokenizer = byte_tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    images = GotOcr2ImageProcessor(size={"height": 56, "width": 56}, max_patches=4)
    videos = InternVLVideoProcessor(size={"height": 56, "width": 56})
    text = template(image="<IMG_CONTEXT>", video="<video>")
    return InternVLProcessor(images, tokenizer, videos, image_seq_length=4, chat_template=text)


def llava_onevision() -> Any:
    side = {"height": 56, "width": 56}
    images = LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=[[56, 56], [56, 112], [112, 56], [112, 112]])
    return LlavaOnevisionProcessor(
        images,
        byte_tokenizer("<image>", "<video>"),
        LlavaOnevisionVideoProcessor(size=side),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template(image="<image>", video="<video>"),
    )


def glm4v(cls: Any = Glm4vProcessor, images: Any = Glm4vImageProcessor, videos: Any = Glm4vVideoProcessor) -> Any:
    tokens = ("<|image|>", "<|video|>", *(f"<|{end}_of_{kind}|>" for end in ("begin", "end") for kind in KINDS))
    text = template(
        image="<|begin_of_image|><|image|><|end_of_image|>", video="<|begin_of_video|><|video|><|end_of_video|>"
    )
    size = {"shortest_edge": 8 * 28 * 28, "longest_edge": 96 * 28 * 28}
    return cls(images(size=size), byte_tokenizer(*tokens), videos(size=size), chat_template=text)


KINDS = ("image", "video")


def idefics3() -> Any:
    tokens = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokens += [f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)]
    images = Idefics3ImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    return Idefics3Processor(images, byte_tokenizer(*tokens), image_seq_len=4, chat_template=template(image="<image>"))


FAMILIES: dict[str, Callable[[], Any]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": functools.partial(qwen2_vl, Qwen2_5_VLProcessor),
    "qwen3_vl": qwen3_vl,
    "qwen2_5_omni": qwen2_5_omni,
    "qwen3_omni": qwen3_omni,
    "gemma3": gemma3,
    "gemma4": gemma4,
    "internvl": internvl,
    "llava_onevision": llava_onevision,
    "glm4v": glm4v,
    "glm46v": functools.partial(glm4v, Glm46VProcessor, Glm46VImageProcessor, Glm46VVideoProcessor),
    "idefics3": idefics3,
}


def tiny_checkpoint(processor: Any, context_length: int = CONTEXT_LENGTH, deepstack: int = 0) -> Checkpoint:
    """`processor` beside a model configuration which tells the length of its context and how wide it is."""
    text_config = SimpleNamespace(max_position_embeddings=context_length, hidden_size=8)
    vision_config = SimpleNamespace(deepstack_visual_indexes=[*range(deepstack)])
    config = SimpleNamespace(get_text_config=lambda: text_config, vision_config=vision_config)
    return Checkpoint(processor, processor.tokenizer, config)
