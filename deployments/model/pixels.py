"""Pixels that arrive as uint8 are normalised here, on the device: a quarter of the bytes travel between the stages."""

import torch

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
