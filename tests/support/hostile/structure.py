"""Where the pieces of a file lie: boxes, chunks, segments, packets. Only as exact as shuffling and lying need."""

import itertools
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_BOXES = frozenset(b"moov trak mdia minf stbl edts udta moof traf mvex dinf meta iprp ipco stsd".split())
_FULL_BOXES = {b"meta": 12, b"stsd": 16}
_MASTERS = frozenset(
    bytes.fromhex(ident)
    for ident in ("18538067", "1f43b675", "1654ae6b", "ae", "e0", "e1", "a0", "1c53bb6b", "bb", "114d9b74", "1a45dfa3")
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `start` to `end` of a file, and where it says how long the piece is: `width` bytes at `size_at`."""

    start: int
    end: int
    size_at: int
    width: int


def pieces(data: bytes, chance: random.Random) -> list[Piece]:
    """The pieces of `data` by its own structure, outer ones before inner ones; arbitrary cuts where it has none."""
    found: list[Piece] = []
    if data[4:8] == b"ftyp":
        found = list(_boxes(data, 0, len(data)))
    elif data[:4] == b"RIFF":
        found = list(_riff(data, 12, len(data)))
    elif data[:4] == b"\x89PNG":
        found = list(_png(data))
    elif data[:3] == b"\xff\xd8\xff":
        found = list(_jpeg(data))
    elif data[:4] == b"\x1a\x45\xdf\xa3":
        found = list(_ebml(data, 0, len(data)))
    elif data[:4] == b"II*\0":
        found = list(_tiff(data))
    elif data[:3] == b"FLV":
        found = list(_flv(data))
    elif data[:1] == b"\x47":
        found = [Piece(at, at + 188, at + 4, 2) for at in range(0, len(data) - 187, 188)]
    elif data[:4] == b"OggS":
        found = _marked(data, b"OggS", 26)
    elif data[:2] in (b"\xff\xf1", b"\xff\xfb", b"\xff\xf3"):
        found = _marked(data, data[:2], 3)
    return found or _cuts(data, chance)


def mended(data: bytes) -> bytes:
    """`data` with the checksums of PNG chunks or Ogg pages made right again, so that readers look further."""
    mended = bytearray(data)
    if data[:4] == b"\x89PNG":
        for piece in _png(data):
            if piece.end - piece.start >= 12:
                mended[piece.end - 4 : piece.end] = zlib.crc32(data[piece.start + 4 : piece.end - 4]).to_bytes(4, "big")
    if data[:4] == b"OggS":
        for piece in _marked(data, b"OggS", 26):
            if piece.end - piece.start >= 27:
                mended[piece.start + 22 : piece.start + 26] = bytes(4)
                checksum = _ogg_crc(mended[piece.start : piece.end])
                mended[piece.start + 22 : piece.start + 26] = checksum.to_bytes(4, "little")
    return bytes(mended)


def _boxes(data: bytes, at: int, end: int) -> Iterator[Piece]:
    while at + 8 <= end:
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        stop = min(end, at + size) if size >= 8 else end
        yield Piece(at, stop, at, 4)
        if kind in _BOXES:
            yield from _boxes(data, at + _FULL_BOXES.get(kind, 8), stop)
        at = stop


def _riff(data: bytes, at: int, end: int) -> Iterator[Piece]:
    while at + 8 <= end:
        stop = min(end, at + 8 + int.from_bytes(data[at + 4 : at + 8], "little"))
        yield Piece(at, stop, at + 4, 4)
        if data[at : at + 4] == b"LIST":
            yield from _riff(data, at + 12, stop)
        at = stop + stop % 2


def _png(data: bytes) -> Iterator[Piece]:
    at = 8
    while at + 12 <= len(data):
        stop = min(len(data), at + 12 + int.from_bytes(data[at : at + 4], "big"))
        yield Piece(at, stop, at, 4)
        at = stop


def _jpeg(data: bytes) -> Iterator[Piece]:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        stop = min(len(data), at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"))
        yield Piece(at, stop, at + 2, 2)
        at = stop
    if at + 4 <= len(data):
        yield Piece(at, len(data), at + 2, 2)


def _ebml(data: bytes, at: int, end: int) -> Iterator[Piece]:
    while at + 2 <= end:
        size_at = at + _vint_width(data[at])
        if size_at >= end:
            return
        width = _vint_width(data[size_at])
        size = int.from_bytes(data[size_at : size_at + width], "big") & ((1 << 7 * width) - 1)
        stop = end if size == (1 << 7 * width) - 1 else min(end, size_at + width + size)
        yield Piece(at, stop, size_at, width)
        if data[at:size_at] in _MASTERS:
            yield from _ebml(data, size_at + width, stop)
        at = stop


def _vint_width(first: int) -> int:
    return 9 - first.bit_length() if first else 8


def _tiff(data: bytes) -> Iterator[Piece]:
    at = int.from_bytes(data[4:8], "little")
    for number in range(int.from_bytes(data[at : at + 2], "little")):
        entry = at + 2 + 12 * number
        if entry + 12 <= len(data):
            yield Piece(entry, entry + 12, entry + 4, 8)


def _flv(data: bytes) -> Iterator[Piece]:
    at = 13
    while at + 15 <= len(data):
        stop = min(len(data), at + 15 + int.from_bytes(data[at + 1 : at + 4], "big"))
        yield Piece(at, stop, at + 1, 3)
        at = stop


def _marked(data: bytes, mark: bytes, size_after: int) -> list[Piece]:
    starts, at = [], data.find(mark)
    while at >= 0:
        starts.append(at)
        at = data.find(mark, at + len(mark))
    return [
        Piece(start, end, min(start + size_after, end - 1), 1)
        for start, end in zip(starts, [*starts[1:], len(data)], strict=True)
    ]


def _cuts(data: bytes, chance: random.Random) -> list[Piece]:
    bounds = sorted({0, len(data), *(chance.randrange(len(data) + 1) for _ in range(12))})
    return [Piece(a, b, a, min(4, b - a)) for a, b in itertools.pairwise(bounds)]


def _ogg_table() -> list[int]:
    table = []
    for number in range(256):
        value = number << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
        table.append(value)
    return table


_OGG_TABLE = _ogg_table()


def _ogg_crc(page: bytes | bytearray) -> int:
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ _OGG_TABLE[value >> 24 ^ byte]
    return value
