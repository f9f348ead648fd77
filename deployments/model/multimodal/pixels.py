"""Pixels that arrive as uint8 are normalised here, on the device: a quarter of the bytes travel between the stages."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.model.multimodal.arrivals import Arrivals
from deployments.types import PixelNorm


def normalised(pixels: torch.Tensor, norm: PixelNorm | None, dtype: torch.dtype) -> torch.Tensor:
    """`(pixels * scale - mean) / std` per channel, in float32, as `dtype`; pixels that are not uint8 pass unchanged."""
    if pixels.dtype is not torch.uint8:
        return pixels
    if norm is None:
        return pixels.to(dtype)
    shape = pixels.shape
    if norm.patch_layout == "flat_channel_major":
        pixels = pixels.reshape(*shape[:-1], len(norm.mean), 1, -1)
    mean, std = (torch.tensor(v, device=pixels.device).view(-1, 1, 1) for v in (norm.mean, norm.std))
    return pixels.float().mul_(norm.scale).sub_(mean).div_(std).to(dtype).reshape(shape)


def name_clips(tensors: dict[str, NDArray[Any]], shapes: Sequence[tuple[int, int]]) -> None:
    """Have clips that are not sent along stand in the processor's `tensors` by their shape; that takes no memory."""
    rows = sum(rows for rows, _ in shapes)
    tensors["pixel_values_videos"] = np.broadcast_to(np.zeros((), np.uint8), (rows, shapes[0][1]))


def add_clips(tensors: dict[str, NDArray[Any]], clips: Sequence[dict[str, NDArray[Any]]]) -> None:
    """Move the patches of `clips`, as the decoder delivers them, into the processor's `tensors`: a request's clips are
    one tensor. A lone clip is not copied. The dicts of `clips` end up without them, so that they hold no memory."""
    patches = [clip.pop("patches") for clip in clips]
    tensors["pixel_values_videos"] = patches[0] if len(patches) == 1 else np.concatenate(patches)


def expect_clip(tensors: dict[str, NDArray[Any]], first: dict[str, NDArray[Any]]) -> Arrivals:
    """The same of a clip's first group: the others have room, as much as `tensors` tell."""
    rows = int(tensors["video_grid_thw"].prod(1).sum())
    arrivals = Arrivals(rows, first.pop("patches"))
    tensors["pixel_values_videos"] = arrivals.array
    return arrivals
