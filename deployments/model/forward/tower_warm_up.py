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

logger = logging.getLogger(__name__)


@torch.inference_mode()
def warm_up_towers(family: Family) -> None:
    """Encode a picture and a clip, on a card alone: a CPU has nothing to set up."""
    if family.model.device.type == "cpu":
        return
    for kind, feature in family.features.items():
        tensors = _inputs(family.model, feature)
        if tensors is None:
            continue
        try:
            family.encode(kind, tensors)
        except Exception as error:  # sizes that the family does not take: its first request pays
            logger.info("the %s tower is not warm: %s", kind, error)
    torch.cuda.synchronize(family.model.device)


def _inputs(model: Any, feature: Feature) -> dict[str, torch.Tensor] | None:
    """Zeros, by the feature function's argument names; None for modalities whose sizes are not known."""
    config = getattr(model.config, "vision_config", None)
    if config is None or feature.kind is MediaKind.AUDIO:
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
