"""What a media item is expected to hold in shared memory at its peak, guessed before anything is fetched."""

import math

from deployments.config import AppConfig
from deployments.ingress.request import ItemPlan, Source
from deployments.types import MediaKind, MediaProfile

DEFAULT_FRAME_PIXELS = 1280 * 720
"""Of a decoded frame where the model's processor leaves the size open."""
DEFAULT_FRAMES = 32
PICTURE_PIXELS = 2_000_000
CHANNELS = 3
COPIES = 2
"""Decoded pixels, and the processor's tensors made of them."""


def item_bytes(item: ItemPlan, config: AppConfig, profile: MediaProfile) -> int:
    """Files and pixels of one item."""
    pixels, copies = 0, COPIES
    if item.kind == MediaKind.IMAGE:
        pixels = PICTURE_PIXELS
    elif item.kind == MediaKind.VIDEO:
        frames = len(item.sources) if item.is_list else _frames(item, config, profile)
        pixels = frames * _frame_pixels(profile, frames)
        copies = COPIES if profile.patches is None else 1  # the decoder's patches are the model's tensor
    return sum(source_bytes(source, config) for source in item.sources) + copies * CHANNELS * pixels


def source_bytes(source: Source, config: AppConfig) -> int:
    """A file, and the text of its `data:` URL beside it."""
    if source.data is not None:
        return 2 * len(source.data)
    return {
        MediaKind.IMAGE: config.ingress.assumed_image_bytes,
        MediaKind.VIDEO: config.ingress.assumed_video_bytes,
        MediaKind.AUDIO: config.ingress.assumed_audio_bytes,
    }[source.item.kind]


def _frames(item: ItemPlan, config: AppConfig, profile: MediaProfile) -> int:
    asked = item.frames.num_frames or item.frames.max_frames or config.decoder.num_frames
    return min(asked or profile.sampling.num_frames or DEFAULT_FRAMES, config.decoder.max_frames)


def _frame_pixels(profile: MediaProfile, frames: int) -> int:
    """Pixels of one frame as the decoder will deliver it, at most."""
    rule = profile.resize
    if rule is None:
        return DEFAULT_FRAME_PIXELS
    if rule.kind == "exact":
        return rule.height * rule.width
    per_frame = rule.max_pixels if rule.kind == "frame" else math.ceil(rule.max_pixels / max(frames, 1))
    return min(per_frame or DEFAULT_FRAME_PIXELS, DEFAULT_FRAME_PIXELS)
