"""Which sounds libsndfile reads whole and exactly: by what their headers announce and the bytes that are there.

Two kinds: WAV with uncompressed samples, which it reads in half of FFmpeg's time, and one stream of Vorbis in Ogg,
whose beginning and end FFmpeg gets wrong by some milliseconds. Everything else is for FFmpeg.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.media.mono import MAX_CHANNELS, MAX_RATE_HZ

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_SAMPLE_BYTES = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8)}
_MAX_CHUNKS = 64
"""Of a WAV file before its samples; real ones have a handful."""
_MAX_PAGES = 200_000
"""Of one stream; real ones have four kilobytes and more a page."""
_FIRST, _LAST = 2, 4
"""Flags of an Ogg page."""


@dataclass(frozen=True, slots=True)
class WholeSound:
    """What a reader must find in the file, no more and no less."""

    frames: int
    rate_hz: int


def whole_sound(data: NDArray[np.uint8], container: str) -> WholeSound | None:
    """What the file `data`, uint8 of shape (size,), announces and holds; None when it isn't whole or plain."""
    if container == "wav":
        return _whole_wav(data)
    return _whole_vorbis(data) if container == "ogg" else None


def _whole_wav(data: NDArray[np.uint8]) -> WholeSound | None:
    """Not whole are: compressed samples (MP3 among them), sizes left at 0 or at 2^32 - 1 by programs that wrote into a
    pipe, samples cut short, and bytes behind the samples that are no chunks: there the size was never brought up to
    date.
    """
    frame_bytes = rate_hz = 0
    at = 12
    for _ in range(_MAX_CHUNKS if data[:4].tobytes() == b"RIFF" else 0):
        name, size = _chunk(data, at)
        body = at + 8
        if name == b"fmt ":
            frame_bytes, rate_hz = _wav_format(data[body : body + min(size, 40)].tobytes())
        if name == b"data":
            is_there = size > 0 and body + size <= len(data) and _chunk_may_follow(data, body + size)
            whole = is_there and frame_bytes > 0 and size % frame_bytes == 0
            return WholeSound(size // frame_bytes, rate_hz) if whole else None
        if not name:
            return None
        at = body + size + size % 2
    return None


def _chunk(data: NDArray[np.uint8], at: int) -> tuple[bytes, int]:
    head = data[at : at + 8].tobytes()
    return (head[:4], int.from_bytes(head[4:], "little")) if len(head) == 8 else (b"", 0)


def _chunk_may_follow(data: NDArray[np.uint8], end: int) -> bool:
    at = end + end % 2
    name, size = _chunk(data, at)
    return not name or (name.strip().isalnum() and at + 8 + size <= len(data) + 1)


def _wav_format(body: bytes) -> tuple[int, int]:
    """(bytes of a frame, rate), zeros when it isn't uncompressed or beyond what is read."""
    if len(body) < 16:
        return 0, 0
    tag, channels, rate_hz, _, frame_bytes, bits = struct.unpack("<HHIIHH", body[:16])
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = int.from_bytes(body[24:26], "little")
    plain = bits % 8 == 0 and bits // 8 in _SAMPLE_BYTES.get(tag, ()) and frame_bytes == channels * bits // 8
    return (frame_bytes, rate_hz) if plain and 1 <= channels <= MAX_CHANNELS and 1 <= rate_hz <= MAX_RATE_HZ else (0, 0)


def _whole_vorbis(data: NDArray[np.uint8]) -> WholeSound | None:
    """Pages without a gap, of one stream which begins with the first and ends with the last."""
    head = data[28:44].tobytes()
    if head[:7] != b"\x01vorbis" or not 1 <= head[11] <= MAX_CHANNELS:
        return None
    at, serial, flags, frames = 0, data[14:18].tobytes(), 0, 0
    for _ in range(_MAX_PAGES):
        if at >= len(data):
            break
        page = data[at : at + 27].tobytes()
        if len(page) < 27 or page[:4] != b"OggS" or page[14:18] != serial or bool(page[5] & _FIRST) != (at == 0):
            return None
        flags, granule = page[5], int.from_bytes(page[6:14], "little", signed=True)
        frames = granule if granule >= 0 else frames
        body = at + 27 + page[26]
        at = body + int(data[at + 27 : body].sum(dtype=np.int64))
    whole = flags & _LAST and at == len(data) and frames > 0
    return WholeSound(frames, int.from_bytes(head[12:16], "little")) if whole else None
