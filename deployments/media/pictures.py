"""Picture files to pixels, by Pillow or as it does: only the formats we mean to read, and no more pixels than allowed.

The header is read and judged before anything is decoded. What a viewer would show comes out: rotated as EXIF says,
transparent parts on white, three channels.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, InternalError, TooLarge, UnsupportedCodec
from deployments.media.essentials import essential_jpeg, essential_png, jpeg_scans
from deployments.media.geometry import MAX_KEPT_PIXELS, target_size
from deployments.media.heif import HEIF, check_heif
from deployments.media.jpeg import plain_jpeg
from deployments.media.picture_pixels import (
    BROKEN,
    SIDEWAYS,
    orientation_of,
    rgb_of,
    smallest_part,
    turned,
)
from deployments.media.sniff import HEAD_BYTES, sniff
from deployments.media.tiff import MAX_VALUES, most_values, silence_libtiff
from deployments.types import ResizeRule

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Pillow's names of the formats that are read; of animations the first picture. HEIC where `heif` reads it."""

MAX_SIDE_PIXELS = 65_535
"""What JPEG and GIF can say, too; a picture of one row and millions of columns costs more than its pixels."""
MAX_SCANS = 100
"""Of a progressive JPEG: each goes through all of its pixels. Encoders write about ten."""
_MAX_SCANNED_PIXELS = 1_000_000_000
"""Pixels of all scans together: some five seconds that nothing can stop."""
MAX_DECODE_BYTES = 600_000_000
"""What a picture may take while it is decoded, whatever the limit of pixels."""
_BYTES_PER_PIXEL = {"WEBP": 17, "AVIF": 10, HEIF: 12}
"""Measured, Pillow's copies and the library's own buffers together; of other formats nine."""
_MOST_PIXELS_PER_BYTE = 16_384
"""Of a TIFF file: what its best packing of an empty page comes to, but for faxes."""
_DRAFTED = frozenset({"JPEG", "MPO"})
"""Formats that can be decoded at a fraction of their sides."""
_DRAFT_MARGIN = 2
"""How many times the next size has to remain: the result is then 54 dB alike, where it would be 46 dB without."""
_FAXES = frozenset({"tiff_ccitt", "group3", "group4", "tiff_raw_16"})
"""Pillow's names of the packings that take a bit for an empty row, however long."""


def decode_picture(
    data: NDArray[np.uint8],
    label: str,
    max_pixels: int,
    deadline: Deadline,
    resize: ResizeRule | None = None,
    *,
    draft: bool = False,
) -> NDArray[np.uint8]:
    """The picture in the bytes `data` of shape (size,), as contiguous uint8 RGB of shape (H, W, 3).

    No more than `MAX_KEPT_PIXELS` come out: a larger picture comes at 1/2, 1/4 or 1/8 of its sides, a JPEG is decoded
    so. With `resize`, the size that the pixels will be brought to next, not below that size, and only where the rule
    gives the same size for both. With `draft` too, smaller JPEGs likewise, where twice that size remains.

    Raises `BadMedia` for bytes that are no whole picture of a format in `FORMATS`, and for those that would cost more
    than their size tells, `UnsupportedCodec` for kinds of these formats that aren't read, `TooLarge` above `max_pixels`
    (height x width, by the header), `StageTimeout` or `WorkCancelled` between steps.
    """
    deadline.check()
    with _pillow_errors(data, label, max_pixels):
        image = _open(data, label, max_pixels)
        turn = orientation_of(image)
        part, size = (1, None) if resize is None else _fraction(image, label, resize, turn in SIDEWAYS, draft=draft)
        part = max(part, smallest_part(image.width * image.height)) if size is None else part
        plain = part == 1 and size is None and image.format == "JPEG" and image.mode == "RGB"
        pixels = plain_jpeg(data) if plain else None
        if pixels is None:
            if image.format in _DRAFTED:
                image.draft(None, (image.width // part, image.height // part))
                part = 1
            image.load()
            deadline.check()
            pixels = rgb_of(image, part, size, label)
    return np.ascontiguousarray(turned(pixels, turn))


def most_decode_bytes(data: NDArray[np.uint8], label: str, max_pixels: int) -> int:
    """Memory that `decode_picture` takes at most, by the header alone. Raises as it does."""
    with _pillow_errors(data, label, max_pixels):
        image = _open(data, label, max_pixels)
    return image.width * image.height * _bytes_per_pixel(image)


def _bytes_per_pixel(image: Image.Image) -> int:
    return _BYTES_PER_PIXEL.get(image.format or "", 9)


@contextmanager
def _pillow_errors(data: NDArray[np.uint8], label: str, max_pixels: int) -> Iterator[None]:
    """Pillow's errors as ours."""
    try:
        yield
    except UnidentifiedImageError as exc:
        raise _unread(data, label) from exc
    except Image.DecompressionBombError as exc:
        raise TooLarge(f"the picture has more than {max_pixels} pixels, the limit", param=label) from exc
    except MemoryError as exc:
        raise InternalError("not enough memory to decode the picture", param=label) from exc
    except BROKEN as exc:
        if "unsupported" in str(exc).lower():
            raise UnsupportedCodec(f"{_looks_like(data)} of a kind that is not supported", param=label) from exc
        raise BadMedia("the picture is truncated or damaged", param=label) from exc


def _open(data: NDArray[np.uint8], label: str, max_pixels: int) -> Image.Image:
    """The picture by its header, nothing of it decoded."""
    kind = sniff(data[:HEAD_BYTES].tobytes()).container
    scans = jpeg_scans(data, MAX_SCANS) if kind == "jpeg" else 0
    if kind == "heic":
        check_heif(data, label, min(max_pixels, MAX_DECODE_BYTES // _BYTES_PER_PIXEL[HEIF]))
    if kind == "tiff" and most_values(data) > MAX_VALUES:
        raise TooLarge(f"the picture has a tag of more than {MAX_VALUES} values, the limit", param=label)
    try:
        formats = (HEIF,) if kind == "heic" else FORMATS
        image = Image.open(io.BytesIO(essential_png(data) if kind == "png" else data.data), formats=formats)
    except (UnidentifiedImageError, *BROKEN):
        if kind != "jpeg":
            raise
        image = Image.open(io.BytesIO(essential_jpeg(data)), formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        raise TooLarge(f"the picture has {width} x {height} pixels, the limit is {max_pixels} in all", param=label)
    most = MAX_DECODE_BYTES // _bytes_per_pixel(image)
    if width * height > most:
        raise TooLarge(
            f"the picture has {width} x {height} pixels, the limit of {image.format} is {most} in all", param=label
        )
    if max(width, height) > MAX_SIDE_PIXELS:
        raise TooLarge(f"the picture has {width} x {height} pixels, the limit is {MAX_SIDE_PIXELS} a side", param=label)
    if scans > MAX_SCANS or scans * width * height > _MAX_SCANNED_PIXELS:
        raise BadMedia(
            f"the picture has too many scans: {MAX_SCANS} are allowed, with {_MAX_SCANNED_PIXELS} pixels together",
            param=label,
        )
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


def _fraction(
    image: Image.Image, label: str, resize: ResizeRule, is_sideways: bool, *, draft: bool
) -> tuple[int, tuple[int, int] | None]:
    """The largest part, 8, 4, 2 or 1, at which the next resize brings `image` to the same size as from the whole; and
    for a picture too large to be kept whole that size itself, (width, height) as `image` lies.
    """
    width, height = image.size
    if is_sideways:
        width, height = height, width
    wanted = target_size(resize, 1, height, width, label)
    too_large = height * width > MAX_KEPT_PIXELS
    if not too_large and not (draft and image.format in _DRAFTED):
        return 1, None
    margin = 1 if too_large else _DRAFT_MARGIN
    least = margin * wanted[0], margin * wanted[1]
    for part in (8, 4, 2):
        drafted = -(-height // part), -(-width // part)
        if drafted[0] >= least[0] and drafted[1] >= least[1] and target_size(resize, 1, *drafted) == wanted:
            return part, None
    if not too_large or wanted[0] > height or wanted[1] > width:
        return 1, None
    return 1, wanted if is_sideways else wanted[::-1]
