"""The checkpoint's processor and configuration, from a folder or the Hugging Face hub."""

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoProcessor, AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What transformers loads beside the weights."""

    processor: Any
    """The family's processor; the tokenizer itself for models of text alone."""
    tokenizer: PreTrainedTokenizerBase
    model_config: Any


def load_checkpoint(config: AppConfig) -> Checkpoint:
    """Load `config.model`; may download.

    Raises `ValueError` for a model without a chat template, and what transformers raises when it can't be had.
    """
    path, options = resolve_model(config), config.hub_options()
    model_config = AutoConfig.from_pretrained(path, **options)
    try:
        processor = AutoProcessor.from_pretrained(path, **options)
    except OSError:
        if type(model_config).sub_configs:
            raise
        # A model of text alone whose tokenizer, cut out of a multimodal one, names a processor that isn't there.
        processor = AutoTokenizer.from_pretrained(path, **options)
    videos: Any = getattr(processor, "video_processor", None)
    if getattr(videos, "cap_pixels_per_frame", False) is None:
        videos.cap_pixels_per_frame = False  # what None means too, but for a warning with each start
    tokenizer = processor if isinstance(processor, PreTrainedTokenizerBase) else processor.tokenizer
    processor.chat_template = processor.chat_template or tokenizer.chat_template
    if not processor.chat_template:
        raise ValueError(f"{config.model} has no chat template, so that it can't answer conversations")
    return Checkpoint(processor, tokenizer, model_config)
