"""Picture files to pixels, by Pillow: only the formats we mean to read, and no more pixels than allowed.

The header is read and judged before anything is decoded. What a viewer would show comes out: rotated as EXIF says,
transparent parts on white, three channels.
"""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, InternalError, TooLarge
from deployments.media.geometry import target_size
from deployments.types import ResizeRule

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Pillow's names of the formats that are read; of animations the first picture."""

_ORIENTATION = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's plugins raise for files that are not what they claim to be."""


def decode_picture(
    data: NDArray[np.uint8], label: str, max_pixels: int, deadline: Deadline, resize: ResizeRule | None = None
) -> NDArray[np.uint8]:
    """The picture in the bytes `data` of shape (size,), as contiguous uint8 RGB of shape (H, W, 3).

    With `resize`, the size that the pixels will be brought to next, a large JPEG may come out at 1/2, 1/4 or 1/8 of its
    sides, never below that size, and only where the rule gives the same size for both.

    Raises `BadMedia` for bytes that are no whole picture of a format in `FORMATS`, `TooLarge` above `max_pixels`
    (height x width, by the header), `StageTimeout` or `WorkCancelled` between steps.
    """
    deadline.check()
    try:
        image = _open(data, label, max_pixels)
        if resize is not None and image.format in ("JPEG", "MPO"):
            _draft(image, label, resize)
        image.load()
        deadline.check()
        return np.ascontiguousarray(_rgb(ImageOps.exif_transpose(image), label))
    except UnidentifiedImageError as exc:
        raise BadMedia(f"not a picture that can be read; allowed: {', '.join(FORMATS)}", param=label) from exc
    except Image.DecompressionBombError as exc:
        raise TooLarge(f"the picture has more than {max_pixels} pixels, the limit", param=label) from exc
    except MemoryError as exc:
        raise InternalError("not enough memory to decode the picture", param=label) from exc
    except _BROKEN as exc:
        raise BadMedia("the picture is truncated or damaged", param=label) from exc


def _open(data: NDArray[np.uint8], label: str, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data.data), formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        raise TooLarge(f"the picture has {width} x {height} pixels, the limit is {max_pixels} in all", param=label)
    return image


def _draft(image: Image.Image, label: str, resize: ResizeRule) -> None:
    """Tell `image` to decode to the smallest fraction of its size that the next resize brings to the same size."""
    width, height = image.size
    if _is_sideways(image):
        width, height = height, width
    wanted = target_size(resize, 1, height, width, label)
    for part in (8, 4, 2):
        drafted = -(-height // part), -(-width // part)
        if drafted[0] >= wanted[0] and drafted[1] >= wanted[1] and target_size(resize, 1, *drafted) == wanted:
            image.draft(None, (image.width // part, image.height // part))
            return


def _is_sideways(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION) in _SIDEWAYS


def _rgb(image: Image.Image, label: str) -> NDArray[np.uint8]:
    """Three channels of 8 bits; sixteen bits lose their lower half, as viewers do it."""
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise BadMedia("pictures of floating-point values are not read; allowed are 8 and 16 bits", param=label)
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        image = paper
    return np.asarray(image.convert("RGB"))
