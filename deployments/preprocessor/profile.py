"""What the rest of the graph must know of the model: how to sample, how large, how long."""

from typing import Any

from deployments.config import AppConfig, DecoderConfig
from deployments.preprocessor.family import Family
from deployments.preprocessor.loading import Checkpoint
from deployments.types import FrameSampling, MediaProfile, PatchRule

_DEFAULT_FPS = 2.0
"""Where a family's processor names neither a rate nor a number of frames."""
_UNSET_LENGTH = 10**9
"""Tokenizers without a limit of their own carry a number far beyond this."""


def media_profile(checkpoint: Checkpoint, family: Family, patches: PatchRule | None, config: AppConfig) -> MediaProfile:
    """Raises `ValueError` for a checkpoint that does not tell how long its context is."""
    return MediaProfile(
        model=config.model_name,
        modalities=family.modalities,
        context_length=_context_length(checkpoint, config.engine.max_context_tokens),
        sampling=_sampling(getattr(checkpoint.processor, "video_processor", None), config.decoder),
        resize=family.video_resize if config.decoder.resize else None,
        audio_rate_hz=family.audio_rate_hz,
        max_audio_s=family.max_audio_s,
        audio_in_video=family.audio_in_video,
        patches=patches if config.decoder.resize else None,
        image_resize=family.image_resize,
    )


def _context_length(checkpoint: Checkpoint, limit: int | None) -> int:
    lengths = [
        getattr(checkpoint.model_config.get_text_config(), "max_position_embeddings", None),
        limit,
    ]
    known = [length for length in lengths if length]
    if not known and checkpoint.tokenizer.model_max_length < _UNSET_LENGTH:
        known = [checkpoint.tokenizer.model_max_length]
    if not known:
        raise ValueError("the checkpoint does not tell its context length; set args.engine.max_context_tokens")
    return int(min(known))


def _sampling(videos: Any, decoder: DecoderConfig) -> FrameSampling:
    """The operator's choice, else the family's own: a rate goes before a number, as in the families' own samplers."""
    own = getattr(videos, "video_sampling", None) or {}
    most = min(decoder.max_frames, own.get("max_frames") or getattr(videos, "max_frames", None) or decoder.max_frames)
    least = min(most, getattr(videos, "min_frames", None) or 1)
    fps: float | None = decoder.fps or own.get("fps") or getattr(videos, "fps", None)
    count: int | None = decoder.num_frames or getattr(videos, "num_frames", None)
    if count is not None and (decoder.num_frames or not fps):
        return FrameSampling(num_frames=min(count, most), fps=None, max_frames=most)
    return FrameSampling(num_frames=None, fps=float(fps or _DEFAULT_FPS), max_frames=most, min_frames=least)
