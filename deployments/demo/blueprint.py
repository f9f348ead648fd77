"""The demo model's shape: configuration, tokenizer, processor, and a randomly initialised model.

Everything is made of transformers' own classes, so that the saved folder loads like any checkpoint. It knows nothing of
the questions that the model is trained on, except for the corpus which its tokenizer is fitted to.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

VOCABULARY = 768
MIN_PIXELS, MAX_PIXELS = 56 * 56, 84 * 112
"""Height x width of a picture or a frame after resizing: 4 to 12 tokens each."""
SOUND_SECONDS = 30
"""Longest sound: the feature extractor pads to it, and would cut what is longer."""

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
NAMED_TOKENS = {
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
SPECIAL_TOKENS = (PAD, START, END, *NAMED_TOKENS.values())
"""Their ids are their places in this list."""

CHAT_TEMPLATE = """\
{%- set seen = namespace(image=0, video=0, audio=0) -%}
{%- if tools -%}
<|im_start|>system
You may call these functions:
{% for tool in tools -%}
{{ tool.function | tojson }}
{% endfor -%}
To call one, answer with its name and arguments as JSON between <tool_call> and </tool_call>.<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{%- set seen.image = seen.image + 1 -%}
Picture {{ seen.image }}: <|vision_bos|><|IMAGE|><|vision_eos|>
{%- elif part.type == 'video' -%}
{%- set seen.video = seen.video + 1 -%}
Clip {{ seen.video }}: <|vision_bos|><|VIDEO|><|vision_eos|>
{%- elif part.type == 'audio' -%}
{%- set seen.audio = seen.audio + 1 -%}
Sound {{ seen.audio }}: <|audio_bos|><|AUDIO|><|audio_eos|>
{%- elif part.type == 'text' -%}
{{ part.text }}
{%- else -%}
{{ raise_exception('a content part is of type image, video, audio or text, not ' ~ part.type) }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if message.tool_calls -%}
{%- for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def make_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """Fit a byte-level BPE of at most VOCABULARY tokens to `corpus`; any text can be written with it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    # Digits stand alone, as in Qwen's tokenizers: a count is one token whatever surrounds it.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return _wrapped(tokenizer)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """That of an earlier checkpoint."""
    return _wrapped(Tokenizer.from_file(str(folder / "tokenizer.json")))


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=NAMED_TOKENS,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5OmniProcessor:
    """The processor of pictures, videos, sounds and text.

    Its class overrides the saved size of videos: pass `size=video_size()` with every call that has videos.
    """
    size = video_size()
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=14, temporal_patch_size=2, merge_size=2),
        video_processor=Qwen2VLVideoProcessor(
            size=size,
            patch_size=14,
            temporal_patch_size=2,
            merge_size=2,
            min_frames=2,
            max_frames=64,
            num_frames=8,
            cap_pixels_per_frame=False,
        ),
        feature_extractor=new_feature_extractor(),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def new_feature_extractor() -> WhisperFeatureExtractor:
    """Log-mel features of sounds at 16 kHz, a frame every 10 ms."""
    return WhisperFeatureExtractor(
        feature_size=128, sampling_rate=16000, hop_length=160, chunk_length=SOUND_SECONDS, n_fft=400
    )


def video_size() -> dict[str, int]:
    """The `size` of pictures and frames, in the processors' own words: fewest and most pixels."""
    return {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}


def make_config() -> Qwen2_5OmniThinkerConfig:
    """About two million parameters, with the proportions of the family."""
    token_id = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    config = Qwen2_5OmniThinkerConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            # At 16 frequencies a base of 1e6 leaves most of them still. Of 100 the twelve of time turn once within a
            # quarter of a second to six seconds; rows and columns, which are few, need no more than the rest.
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [12, 2, 2]},
            "pad_token_id": token_id[PAD],
            "eos_token_id": token_id[END],
            "bos_token_id": None,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_heads": 4,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [0, 1],
            "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
        },
        audio_config={
            "num_mel_bins": 128,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 384,
            "d_model": 128,
            "output_dim": 128,
            # Ten seconds of sound see each other: beeps are counted over all of it.
            "n_window": 500,
        },
        image_token_index=token_id["<|IMAGE|>"],
        video_token_index=token_id["<|VIDEO|>"],
        audio_token_index=token_id["<|AUDIO|>"],
        audio_start_token_id=token_id["<|audio_bos|>"],
        audio_end_token_id=token_id["<|audio_eos|>"],
        user_token_id=token_id[START],
        tie_word_embeddings=True,
        pad_token_id=token_id[PAD],
        eos_token_id=token_id[END],
    )
    # `get_rope_index` reads these although the class does not declare them.
    config.vision_start_token_id = token_id["<|vision_bos|>"]
    config.vision_end_token_id = token_id["<|vision_eos|>"]
    return config


def make_model(seed: int) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A randomly initialised model in float32 on the CPU, the same for the same `seed`."""
    torch.manual_seed(seed)
    model = Qwen2_5OmniThinkerForConditionalGeneration(make_config())
    model.generation_config = GenerationConfig(
        eos_token_id=SPECIAL_TOKENS.index(END), pad_token_id=SPECIAL_TOKENS.index(PAD), do_sample=False
    )
    return model


def save(folder: Path, model: Qwen2_5OmniThinkerForConditionalGeneration, processor: Qwen2_5OmniProcessor) -> None:
    """Write model, tokenizer, processor and chat template to `folder`."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
