"""Pixels travel to the model as uint8 where normalising them there gives what the processor would have given.

Whether it does is found out once, on trial pictures and clips: the processor's float output must equal
`(x * scale - mean) / std` of its uint8 output to float rounding, for each tensor that it makes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.preprocessor.family import Family
from deployments.preprocessor.media import Media
from deployments.types import MediaKind, PixelNorm

RAW_OPTIONS = {"do_rescale": False, "do_normalize": False}
"""What makes a processor leave its pixels as they are."""

_ROUNDING = 4e-6
"""Of values up to about 3, in float32."""
_Layout = Literal["NCHW", "flat_channel_major"]


@dataclass(frozen=True, slots=True)
class Handoff:
    """The arithmetic that is left to the model's device; None where it has to be the processor's."""

    images: PixelNorm | None = None
    videos: PixelNorm | None = None

    def norm_of(self, media: Media) -> PixelNorm | None:
        """The one normalisation that all pixels of a request want."""
        wanted = ([self.images] if media.pictures_HWC else []) + ([self.videos] if media.clips else [])
        return wanted[0] if wanted and all(norm == wanted[0] for norm in wanted) else None


def find_handoff(processor: Any, family: Family) -> Handoff:
    """Try both kinds of pixels that the family takes."""
    generator = np.random.default_rng(0)
    images = videos = None
    if MediaKind.IMAGE in family.modalities:
        first, second = (_noise(generator, 1, *side)[0] for side in ((97, 143), (160, 64)))
        images = _agreed(
            processor.image_processor,
            [
                partial(processor.image_processor, [pictures], input_data_format="channels_last")
                for pictures in ([first], [second], [first, second])
            ],
        )
    if MediaKind.VIDEO in family.modalities:
        clips = [torch.from_numpy(_noise(generator, count, 97, 143)).permute(0, 3, 1, 2) for count in (4, 4)]
        options = {"input_data_format": "channels_first", "do_sample_frames": False}
        videos = _agreed(processor.video_processor, [partial(processor.video_processor, clips, **options)])
    return Handoff(images, videos)


def normalised(pixels: NDArray[np.uint8], norm: PixelNorm) -> NDArray[np.float32]:
    """What the model's device computes: float32 of the same shape as `pixels`."""
    if norm.patch_layout == "NCHW":
        shape: tuple[int, ...] = (-1, 1, 1)
        mean, std = (np.array(values, np.float32).reshape(shape) for values in (norm.mean, norm.std))
    else:
        each = pixels.shape[-1] // len(norm.mean)
        mean, std = (np.repeat(np.array(values, np.float32), each) for values in (norm.mean, norm.std))
    scaled = pixels.astype(np.float32) * np.float32(norm.scale)
    return np.asarray((scaled - mean) / std, np.float32)


def _noise(generator: np.random.Generator, frames: int, height: int, width: int) -> NDArray[np.uint8]:
    return generator.integers(0, 256, (frames, height, width, 3), np.uint8)


def _agreed(part: Any, trials: list[Callable[..., Any]]) -> PixelNorm | None:
    """The normalisation by which `part`'s raw outputs become its usual ones; None when none of ours does."""
    if not (getattr(part, "do_rescale", None) and getattr(part, "do_normalize", None)):
        return None
    try:
        outputs = [(run(return_tensors="pt"), run(return_tensors="pt", **RAW_OPTIONS)) for run in trials]
    except (ValueError, TypeError, RuntimeError):
        return None
    for layout in ("NCHW", "flat_channel_major"):
        norm = PixelNorm(float(part.rescale_factor), tuple(part.image_mean), tuple(part.image_std), layout)
        if all(_all_equal(usual, raw, norm) for usual, raw in outputs):
            return norm
    return None


def _all_equal(usual: Any, raw: Any, norm: PixelNorm) -> bool:
    return usual.keys() == raw.keys() and all(_equal(usual[name], raw[name], norm) for name in usual)


def _equal(usual: Any, raw: Any, norm: PixelNorm) -> bool:
    if not torch.is_tensor(usual) or not torch.is_tensor(raw):
        return bool(np.array_equal(usual, raw))
    if raw.dtype != torch.uint8:
        return usual.dtype == raw.dtype and torch.equal(usual, raw)
    if usual.shape != raw.shape or not _fits(raw, norm):
        return False
    return bool(np.allclose(usual.numpy(), normalised(raw.numpy(), norm), rtol=0, atol=_ROUNDING))


def _fits(raw: torch.Tensor, norm: PixelNorm) -> bool:
    channels = len(norm.mean)
    if norm.patch_layout == "NCHW":
        return raw.ndim >= 3 and raw.shape[-3] == channels
    return raw.shape[-1] % channels == 0
