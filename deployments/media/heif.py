"""HEIC pictures: read where the extra `heic` (pillow-heif) is installed, else refused with its name.

A HEIC picture is HEVC in boxes: its own size stands in one of them, the size of what is decoded in another, and it may
be put together from tiles. So what would be decoded is counted here, from the boxes, before a codec sees it.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from deployments.errors import TooLarge, UnsupportedCodec

HEIF = "HEIF"
"""Pillow's name of the format."""
EXTRA = "heic"
_MAX_BOXES = 100_000
_SPS = 33
"""The HEVC unit that holds a size."""
_TILES = b"dimg"
"""The reference from a picture to those that it is put together from."""


@cache
def reads_heif() -> bool:
    """Whether Pillow reads them in this process; looked up once."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.options.DECODE_THREADS = 1  # a worker is a thread already
    pillow_heif.options.THUMBNAILS = pillow_heif.options.AUX_IMAGES = pillow_heif.options.DEPTH_IMAGES = False
    pillow_heif.register_heif_opener()
    return True


def check_heif(data: NDArray[np.uint8], label: str, max_pixels: int) -> None:
    """Raise `UnsupportedCodec`, naming the extra, where HEIC is not read; `TooLarge` where more than `max_pixels` would
    be decoded for the file `data`, uint8 (size,); `ValueError` for boxes that are none."""
    if not reads_heif():
        raise UnsupportedCodec(
            f"the file is a HEIC picture, which this server reads only with its extra `{EXTRA}` (pillow-heif)",
            param=label,
        )
    pixels = coded_pixels(data)
    if pixels > max_pixels:
        raise TooLarge(f"the picture is coded as {pixels} pixels, the limit is {max_pixels} in all", param=label)


def coded_pixels(data: NDArray[np.uint8]) -> int:
    """How many pixels the codec would decode for the picture of the HEIC file `data`, uint8 (size,), at most: those of
    its largest coded picture for each tile. Raises `ValueError` for boxes that are none."""
    file = data.tobytes()
    sizes, tiles = [0], 0
    for name, start, end in _boxes(file, 0, len(file), b"meta"):
        if name == b"hvcC":
            sizes += [_pixels(unit) for unit in _units(file[start:end])]
        elif name == _TILES:
            tiles += _references(file[start:end])
    return max(sizes) * max(1, tiles)


_FULL = {b"meta": 4, b"iref": 4, b"iprp": 0, b"ipco": 0}
"""Boxes that hold the others, and how many bytes of their own they begin with."""


def _boxes(file: bytes, at: int, end: int, only: bytes | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of the contents of all boxes below `at`; outermost ones but `only` are passed over."""
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        size, name = int.from_bytes(file[at : at + 4], "big"), file[at + 4 : at + 8]
        start = at + 8
        if size == 1:
            size, start = int.from_bytes(file[at + 8 : at + 16], "big"), at + 16
        stop = end if size == 0 else at + size
        if stop < start or stop > end:
            if only is not None:
                return  # the end of a file that was cut is its codec's business
            raise ValueError("a box is larger than what it stands in")
        if name in _FULL and (only is None or name == only):
            yield from _boxes(file, start + _FULL[name], stop)
        elif only is None:
            yield name, start, stop
        at = stop
    raise ValueError(f"more than {_MAX_BOXES} boxes")


def _references(box: bytes) -> int:
    """How many items a reference names; its own number takes two or four bytes, whichever fits the rest."""
    for wide in (2, 4):
        count = int.from_bytes(box[wide : wide + 2], "big")
        if len(box) == wide * (1 + count) + 2:
            return count
    raise ValueError("a reference of no size")


def _units(config: bytes) -> Iterator[bytes]:
    """The size-giving units of a decoder configuration (ISO/IEC 14496-15, 8.3.3)."""
    at = 23
    for _ in range(config[22]):
        kind, count = config[at] & 0x3F, int.from_bytes(config[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            size = int.from_bytes(config[at : at + 2], "big")
            if kind == _SPS:
                yield config[at + 2 : at + 2 + size]
            at += 2 + size


def _pixels(unit: bytes) -> int:
    """Width x height of a sequence parameter set (ITU-T H.265, 7.3.2.2)."""
    bits = _Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 96)
    present = [(bits.take(1), bits.take(1)) for _ in range(8 if layers else 0)]
    for profile, level in present[:layers]:
        bits.take(88 * profile + 8 * level)
    bits.take_golomb()
    if bits.take_golomb() == 3:
        bits.take(1)
    return bits.take_golomb() * bits.take_golomb()


class _Bits:
    """A string of bits, read from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:256], "big")
        self._left = 8 * len(data[:256])

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("a unit ends early")
        return self._value >> self._left & ((1 << count) - 1)

    def take_golomb(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros | self.take(zeros)) - 1
