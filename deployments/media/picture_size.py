"""How many pixels a picture file says that it has: read where nothing is decoded, to know what it will take.

Only an expectation: `pictures` looks at the header again, with Pillow, before it decodes, and its word counts.
"""

import itertools
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deployments.media.essentials import jpeg_segments
from deployments.media.tiff import first_directory

HEAD_BYTES = 256 * 1024
"""Within which a header is looked for: cameras write previews before it."""
_MAX_SEGMENTS = 100
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of segments that tell the size."""
_TIFF_WIDTH, _TIFF_HEIGHT, _SHORT = 256, 257, 3

Sides = tuple[int, int]


def declared_pixels(data: NDArray[np.uint8], container: str) -> int:
    """Height x width by the header of the file `data`, uint8 of shape (size,); 0 where it does not tell.

    `container`: as `sniff` names it. Some microseconds, whatever the bytes are; never raises for them.
    """
    read = _READERS.get(container)
    try:
        width, height = (0, 0) if read is None else read(data[:HEAD_BYTES])
    except (struct.error, ValueError):  # cut before its size, or in too many pieces
        return 0
    return abs(width * height)


def _png(head: NDArray[np.uint8]) -> Sides:
    return struct.unpack_from(">II", head.data, 16)


def _jpeg(head: NDArray[np.uint8]) -> Sides:
    for marker, start, _ in itertools.islice(jpeg_segments(head), _MAX_SEGMENTS):
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", head.data, start + 5)
            return width, height
    return 0, 0


def _webp(head: NDArray[np.uint8]) -> Sides:
    kind = head[12:16].tobytes()
    if kind == b"VP8X":
        wide, high = head[24:27].tobytes(), head[27:30].tobytes()
        return int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", head.data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", head.data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _gif(head: NDArray[np.uint8]) -> Sides:
    return struct.unpack_from("<HH", head.data, 6)


def _bmp(head: NDArray[np.uint8]) -> Sides:
    (size,) = struct.unpack_from("<I", head.data, 14)
    return struct.unpack_from("<HH" if size == 12 else "<ii", head.data, 18)


def _tiff(head: NDArray[np.uint8]) -> Sides:
    rows = first_directory(head)
    sides = [rows[rows["tag"] == tag][:1] for tag in (_TIFF_WIDTH, _TIFF_HEIGHT)]
    if not all(len(side) for side in sides):
        return 0, 0
    big_endian = head[:2].tobytes() == b"MM"
    width, height = (
        int(side["value"][0]) >> (16 if big_endian and int(side["kind"][0]) == _SHORT else 0) for side in sides
    )
    return width, height


def _of_items(head: NDArray[np.uint8]) -> Sides:
    """The largest of what the file describes: a picture may be put together of tiles, and have previews."""
    raw, at, largest = head.tobytes(), -1, (0, 0)
    for _ in range(_MAX_SEGMENTS):
        at = raw.find(b"ispe", at + 1)
        if at < 0:
            break
        sides = struct.unpack_from(">II", raw, at + 8)
        largest = max(largest, sides, key=lambda pair: pair[0] * pair[1])
    return largest


_READERS: dict[str, Callable[[NDArray[np.uint8]], Sides]] = {
    "png": _png,
    "jpeg": _jpeg,
    "webp": _webp,
    "gif": _gif,
    "bmp": _bmp,
    "tiff": _tiff,
    "avif": _of_items,
    "heic": _of_items,
}
