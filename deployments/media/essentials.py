"""Picture files without what isn't needed for their pixels: a broken comment is no reason to refuse a picture."""

import itertools
import re
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset({b"tRNS", b"eXIf"})
"""Ancillary chunks that change what is seen."""
_RAW_PROFILE = re.compile(rb"Raw profile type (?:exif|APP1)\0")
"""Where programs kept the orientation before PNG had a place for it."""
_MAX_PROFILE_BYTES = 64 * 1024
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_JPEG_KEPT = frozenset({0xE0, 0xE1, 0xEE})
"""JFIF, EXIF and Adobe's word on colours, of the segments for applications."""
MAX_PIECES = 50_000
"""Chunks or segments of one picture; real ones have hundreds, and thousands where pixels come in small pieces."""
_SOS, _EOI, _TEM, _COMMENT = 0xDA, 0xD9, 0x01, 0xFE


def essential_png(data: NDArray[np.uint8]) -> bytes:
    """The PNG file `data`, uint8 of shape (size,), without text, profiles and ancillary chunks that are damaged.

    Raises `ValueError` for more than `MAX_PIECES`.
    """
    kept = [data[: len(_PNG_MAGIC)].data]
    at = len(_PNG_MAGIC)
    for _ in _pieces():
        if at + 8 > len(data):
            break
        size, name = int.from_bytes(data[at : at + 4].tobytes(), "big"), data[at + 4 : at + 8].tobytes()
        end = at + 12 + size
        if not name[:1].islower() or _is_seen(name, data[at:end], size):
            kept.append(data[at:end].data)
        at = end
    return b"".join(kept)


def _is_seen(name: bytes, chunk: NDArray[np.uint8], size: int) -> bool:
    """Of an ancillary chunk, the whole of it with its length and its checksum."""
    if name in (b"tEXt", b"zTXt", b"iTXt"):
        if size > _MAX_PROFILE_BYTES or not _RAW_PROFILE.match(chunk[8:].tobytes()):
            return False
    elif name not in _PNG_KEPT:
        return False
    return len(chunk) == 12 + size and zlib.crc32(chunk[4:-4].data) == int.from_bytes(chunk[-4:].tobytes(), "big")


def essential_jpeg(data: NDArray[np.uint8]) -> bytes:
    """The JPEG file `data`, uint8 of shape (size,), without comments and most of what applications put there."""
    segments = list(jpeg_segments(data))
    kept = [data[start:end].data for marker, start, end in segments if not _is_dropped(marker)]
    return b"".join([data[:2].data, *kept])


def _is_dropped(marker: int) -> bool:
    return marker == _COMMENT or (0xE0 <= marker <= 0xEF and marker not in _JPEG_KEPT)


def jpeg_scans(data: NDArray[np.uint8], most: int) -> int:
    """Scans of the JPEG file `data`, uint8 of shape (size,), counted up to `most` + 1."""
    scans = (marker for marker, _, _ in jpeg_segments(data) if marker == _SOS)
    return sum(1 for _ in itertools.islice(scans, most + 1))


def jpeg_segments(data: NDArray[np.uint8]) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) up to the picture's end; a scan's segment includes its coded pixels.

    Raises `ValueError` for more than `MAX_PIECES`.
    """
    at = 2
    for _ in _pieces():
        if (found := _JPEG_MARKER.search(data.data, at)) is None:
            return
        marker, start = found[0][1], found.start()
        if marker in (_EOI, _TEM):
            at = start + 2
        else:
            at = start + 2 + max(2, int.from_bytes(data[start + 2 : start + 4].tobytes(), "big"))
        if marker == _SOS:
            following = _JPEG_MARKER.search(data.data, at)
            at = len(data) if following is None else following.start()
        yield marker, start, min(at, len(data))
        if marker == _EOI:
            return


def _pieces() -> Iterator[int]:
    yield from range(MAX_PIECES)
    raise ValueError(f"more than {MAX_PIECES} pieces")
