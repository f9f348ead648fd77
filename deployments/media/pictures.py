"""Picture files to pixels, by Pillow: only the formats we mean to read, and no more pixels than allowed.

The header is read and judged before anything is decoded. What a viewer would show comes out: rotated as EXIF says,
transparent parts on white, three channels.
"""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, InternalError, TooLarge, UnsupportedCodec
from deployments.media.essentials import essential_jpeg, essential_png, jpeg_scans
from deployments.media.geometry import target_size
from deployments.media.libtiff import silence_libtiff
from deployments.media.sniff import HEAD_BYTES, sniff
from deployments.types import ResizeRule

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Pillow's names of the formats that are read; of animations the first picture."""

MAX_SIDE_PIXELS = 65_535
"""What JPEG and GIF can say, too; a picture of one row and millions of columns costs more than its pixels."""
MAX_SCANS = 100
"""Of a progressive JPEG: each goes through all of its pixels. Encoders write about ten."""
_MOST_PIXELS_PER_BYTE = 16_384
"""Of a TIFF file: what its best packing of an empty page comes to, but for faxes."""
_FAXES = frozenset({"tiff_ccitt", "group3", "group4", "tiff_raw_16"})
"""Pillow's names of the packings that take a bit for an empty row, however long."""

_ORIENTATION = 0x0112
_TURNED = frozenset(range(2, 9))
"""EXIF's orientations of pictures that aren't upright."""
_SIDEWAYS = frozenset({5, 6, 7, 8})
_GREY_OF_16_BITS = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
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

    With `resize`, the size that the pixels will be brought to next, a large picture comes out at 1/2, 1/4 or 1/8 of its
    sides, never below that size, and only where the rule gives the same size for both; a JPEG is decoded so.

    Raises `BadMedia` for bytes that are no whole picture of a format in `FORMATS`, and for those that would cost more
    than their size tells, `UnsupportedCodec` for kinds of these formats that aren't read, `TooLarge` above `max_pixels`
    (height x width, by the header), `StageTimeout` or `WorkCancelled` between steps.
    """
    deadline.check()
    try:
        image = _open(data, label, max_pixels)
        turn = _orientation(image)
        part = 1 if resize is None else _fraction(image, label, resize, turn)
        if image.format in ("JPEG", "MPO"):
            image.draft(None, (image.width // part, image.height // part))
            part = 1
        image.load()
        deadline.check()
        pixels = _rgb(_reduced(_on_canvas(image), part), label)
    except UnidentifiedImageError as exc:
        raise _unread(data, label) from exc
    except Image.DecompressionBombError as exc:
        raise TooLarge(f"the picture has more than {max_pixels} pixels, the limit", param=label) from exc
    except MemoryError as exc:
        raise InternalError("not enough memory to decode the picture", param=label) from exc
    except _BROKEN as exc:
        if "unsupported" in str(exc).lower():
            raise UnsupportedCodec(f"{_looks_like(data)} of a kind that is not supported", param=label) from exc
        raise BadMedia("the picture is truncated or damaged", param=label) from exc
    return np.ascontiguousarray(_turned(pixels, turn))


def _open(data: NDArray[np.uint8], label: str, max_pixels: int) -> Image.Image:
    """The picture by its header, nothing of it decoded."""
    kind = sniff(data[:HEAD_BYTES].tobytes()).container
    if kind == "jpeg" and jpeg_scans(data, MAX_SCANS) > MAX_SCANS:
        raise BadMedia(f"the picture has more than {MAX_SCANS} scans, the limit", param=label)
    try:
        image = Image.open(io.BytesIO(essential_png(data) if kind == "png" else data.data), formats=FORMATS)
    except (UnidentifiedImageError, *_BROKEN):
        if kind != "jpeg":
            raise
        image = Image.open(io.BytesIO(essential_jpeg(data)), formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        raise TooLarge(f"the picture has {width} x {height} pixels, the limit is {max_pixels} in all", param=label)
    if max(width, height) > MAX_SIDE_PIXELS:
        raise TooLarge(f"the picture has {width} x {height} pixels, the limit is {MAX_SIDE_PIXELS} a side", param=label)
    if image.format == "TIFF":
        _check_tiff(image, len(data), label)
    return image


def _check_tiff(image: Image.Image, size: int, label: str) -> None:
    """Refuse a file that can't hold its own picture: what lacks can't be decoded, only complained of."""
    few_rows = image.info.get("compression") in _FAXES and image.height > 8 * size
    if few_rows or image.width * image.height > _MOST_PIXELS_PER_BYTE * size:
        raise BadMedia("the picture is truncated or damaged: it has fewer bytes than pixels need", param=label)
    silence_libtiff()


def _unread(data: NDArray[np.uint8], label: str) -> BadMedia:
    found = sniff(data[:HEAD_BYTES].tobytes())
    if found.container is not None and found.container.upper() in FORMATS:
        return BadMedia(f"{_looks_like(data)} that is damaged, or of a kind that is not supported", param=label)
    return BadMedia(
        f"not a picture that can be read: its bytes look like {found.looks_like}; allowed: {', '.join(FORMATS)}",
        param=label,
    )


def _looks_like(data: NDArray[np.uint8]) -> str:
    return f"the file is {sniff(data[:HEAD_BYTES].tobytes()).looks_like}"


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 for a picture whose EXIF is damaged, and for TIFF, which Pillow turns by itself."""
    if image.format == "TIFF":
        return 1
    try:
        told = image.getexif().get(_ORIENTATION)
    except _BROKEN:
        return 1
    return told if isinstance(told, int) and told in _TURNED else 1


def _fraction(image: Image.Image, label: str, resize: ResizeRule, turn: int) -> int:
    """The largest part, 8, 4, 2 or 1, at which the next resize brings `image` to the same size as from the whole."""
    width, height = image.size
    if turn in _SIDEWAYS:
        width, height = height, width
    wanted = target_size(resize, 1, height, width, label)
    for part in (8, 4, 2):
        drafted = -(-height // part), -(-width // part)
        if drafted[0] >= wanted[0] and drafted[1] >= wanted[1] and target_size(resize, 1, *drafted) == wanted:
            return part
    return 1


def _on_canvas(image: Image.Image) -> Image.Image:
    """A GIF's first picture may be smaller than the file's canvas: viewers leave the rest transparent."""
    box = getattr(image, "dispose_extent", None)
    if image.format != "GIF" or box is None or box == (0, 0, *image.size):
        return image
    canvas = Image.new("RGBA", image.size, (255, 255, 255, 0))
    canvas.paste(image.crop(box).convert("RGBA"), box[:2])
    return canvas


def _reduced(image: Image.Image, part: int) -> Image.Image:
    """1 / `part` of the sides, each pixel the mean of those it stands for."""
    if part == 1:
        return image
    if image.mode in ("1", "P", "PA") or (image.has_transparency_data and image.mode not in ("RGBA", "LA", "I;16")):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in _GREY_OF_16_BITS:
        return image  # no mean of these in Pillow; two bytes a pixel
    return image.reduce(part)


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """(H, W, 3) as EXIF's orientation wants it seen, a view."""
    if orientation not in _TURNED:
        return pixels
    if orientation in _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    across = orientation in (2, 3, 6, 7)
    down = orientation in (3, 4, 7, 8)
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


def _rgb(image: Image.Image, label: str) -> NDArray[np.uint8]:
    """Three channels of 8 bits; sixteen bits lose their lower half, as viewers do it."""
    if image.mode in _GREY_OF_16_BITS:
        whole = np.asarray(image).astype(np.int64)
        grey = np.clip(whole >> 8, 0, 255).astype(np.uint8)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[whole == transparent] = 255
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise BadMedia("pictures of floating-point values are not read; allowed are 8 and 16 bits", param=label)
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        image = paper
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
