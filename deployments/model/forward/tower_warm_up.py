"""Media that nobody asked for, encoded once before the first request: kernels are compiled, libraries are set up.

Sizes come from the model's configuration; a family whose inputs are not known here is warmed up by its first request.
"""

import logging
from typing import Any

import torch

from deployments.model.families.family import Family, Feature
from deployments.types import MediaKind

_SIDE = 32
"""Patches along each side of a picture, where pictures are of any size."""
_SOUND_FRAMES = 500
"""Of a spectrogram: five seconds."""

logger = logging.getLogger(__name__)


@torch.inference_mode()
def warm_up_towers(family: Family) -> set[MediaKind]:
    """Encode a picture, a clip and a sound; of which kinds that has gone well."""
    warm: set[MediaKind] = set()
    for kind, feature in family.features.items():
        model = family.model
        tensors = _sound(model, feature) if kind is MediaKind.AUDIO else _pictures(model, feature)
        if tensors is None:
            continue
        try:
            family.encode(kind, tensors)
            warm.add(kind)
        except Exception as error:  # sizes that the family does not take: its first request pays
            logger.info("the %s tower is not warm: %s", kind, error)
    if family.model.device.type == "cuda":
        torch.cuda.synchronize(family.model.device)
    return warm


def _sound(model: Any, feature: Feature) -> dict[str, torch.Tensor] | None:
    """Silence, as `_pictures` gives pictures, for families that take spectrograms of any length with a mask."""
    bins = getattr(getattr(model.config, "audio_config", None), "num_mel_bins", None)
    mask = "feature_attention_mask"
    if not isinstance(bins, int) or mask not in feature.argument_names:
        return None
    shape = (1, bins, _SOUND_FRAMES)
    return {
        feature.main_tensor: torch.zeros(shape, dtype=model.dtype, device=model.device),
        mask: torch.ones((1, _SOUND_FRAMES), dtype=torch.int64, device=model.device),
    }


def _pictures(model: Any, feature: Feature) -> dict[str, torch.Tensor] | None:
    """Zeros, by the feature function's argument names; None where their sizes are not known."""
    config = getattr(model.config, "vision_config", None)
    if config is None:
        return None
    grid = next((name for name in feature.argument_names if name.endswith("grid_thw")), None)
    if grid is None:
        size = getattr(config, "image_size", None)
        if not isinstance(size, int) or feature.kind is not MediaKind.IMAGE:
            return None
        shape: tuple[int, ...] = (1, 3, size, size)
        return {feature.main_tensor: torch.zeros(shape, dtype=model.dtype, device=model.device)}
    frames = 4 if feature.kind is MediaKind.VIDEO else 1
    channels = getattr(config, "in_channels", getattr(config, "in_chans", 3))
    shape = (frames * _SIDE**2, channels * config.temporal_patch_size * config.patch_size**2)
    return {
        feature.main_tensor: torch.zeros(shape, dtype=model.dtype, device=model.device),
        grid: torch.tensor([[frames, _SIDE, _SIDE]], device=model.device),
    }
