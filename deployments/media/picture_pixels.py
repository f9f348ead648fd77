"""From a picture that Pillow has decoded to what a viewer would show: upright RGB of 8 bits, on white, not too large.

What is reduced is reduced first: a picture at the limit of pixels takes hundreds of megabytes in each of its copies.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.errors import BadMedia
from deployments.media.geometry import MAX_KEPT_PIXELS
from deployments.media.heif import HEIF

SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF's orientations that swap height and width."""
BROKEN = (
    AssertionError,
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
_ORIENTATION = 0x0112
_TURNED = frozenset(range(2, 9))
_GREY_OF_16_BITS = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


def orientation_of(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 for a picture whose EXIF is damaged, and for formats that are turned while they are read."""
    if image.format in ("TIFF", HEIF):
        return 1
    try:
        told = image.getexif().get(_ORIENTATION)
    except BROKEN:
        return 1
    return told if isinstance(told, int) and told in _TURNED else 1


def smallest_part(pixels: int) -> int:
    """1, 2, 4 or 8: the part of the sides of a picture of `pixels` at which it may be kept."""
    return next((part for part in (1, 2, 4) if pixels <= MAX_KEPT_PIXELS * part**2), 8)


def rgb_of(image: Image.Image, part: int, size: tuple[int, int] | None, label: str) -> NDArray[np.uint8]:
    """(H, W, 3) of `image`, whose pixels are loaded, at 1 / `part` of its sides, or at `size`, (width, height).

    Raises `BadMedia` for floating-point pixels, naming the item by `label`.
    """
    if image.mode == "F":
        raise BadMedia("pictures of floating-point values are not read; allowed are 8 and 16 bits", param=label)
    image = _eight_bits(_on_canvas(image))
    if part > 1 or size is not None:
        image = _smoothable(image)
        image = image.reduce(part) if size is None else image.resize(size, Image.Resampling.BICUBIC)
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        image = paper
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """(H, W, 3) as EXIF's orientation wants it seen, a view."""
    if orientation not in _TURNED:
        return pixels
    if orientation in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    across = orientation in (2, 3, 6, 7)
    down = orientation in (3, 4, 7, 8)
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


def _on_canvas(image: Image.Image) -> Image.Image:
    """A GIF's first picture may be smaller than the file's canvas: viewers leave the rest transparent."""
    box = getattr(image, "dispose_extent", None)
    if image.format != "GIF" or box is None or box == (0, 0, *image.size):
        return image
    canvas = Image.new("RGBA", image.size, (255, 255, 255, 0))
    canvas.paste(image.crop(box).convert("RGBA"), box[:2])
    return canvas


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of sixteen bits loses its lower half, as in viewers; its transparent value becomes white."""
    if image.mode not in _GREY_OF_16_BITS:
        return image
    whole = np.asarray(image)
    grey = np.clip(whole >> 8, 0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[whole == transparent] = 255
    return Image.fromarray(grey)


def _smoothable(image: Image.Image) -> Image.Image:
    """In a mode whose pixels have means."""
    if image.has_transparency_data:
        return image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("1", "P") else image
