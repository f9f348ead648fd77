"""What an MP4 says of how many samples it has, looked at before FFmpeg makes a table of that many.

FFmpeg reads any box wherever it stands, so all that is no media is looked through for the boxes that count, by name.
"""

import itertools
import re
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deployments.errors import BadMedia, TooLarge

MAX_SAMPLES = 1_500_000
"""Of all tracks: nine hours of film with two tracks of sound. FFmpeg's tables take some 40 bytes for each."""

MAX_INDEX_BYTES = 128 * 2**20
"""Of boxes in a row that are no media; those of as many samples as are allowed take less."""
MAX_BOXES = 1_000_000
"""Outermost ones, and of one name: more would take longer to be looked at than to be decoded."""

_MOST_TRACKS = 1000
"""Boxes of a usual index; where there are more, nothing is made of its structure."""
_COUNTING = (b"trak", b"stsz", b"stz2", b"trun", b"stts", b"hdlr", b"stco", b"co64", b"stsc")
_NEVER_READ = frozenset({b"mdat", b"free", b"skip", b"wide"})
_LONG_SIZE = b"\0\0\0\1"
"""Instead of a box's size: eight bytes after its name hold it."""
_COMPRESSED = re.compile(rb"cmov.{4}dcom", re.DOTALL)
_SOUND_HANDLERS = frozenset({b"soun", b"alis", b"url ", b"mdir", b"mdta"})
"""Of a track of sound: its own, and those of where its data and its metadata are."""
_SAMPLES_PER_ENTRY = 160
"""The fewest samples of uncompressed sound that FFmpeg makes one entry of."""


def check_sample_counts(data: NDArray[np.uint8], label: str) -> None:
    """Look at the counts of the file `data`, uint8 of shape (size,): a box of twenty bytes may claim 2^32 samples, for
    which FFmpeg would take gigabytes.

    Raises `BadMedia` for more samples than bytes, and for an index that is compressed, as nobody has written it for
    twenty years; `TooLarge` for more than `MAX_SAMPLES`.
    """
    samples = 0
    for index in _indices(data, label):
        if _COMPRESSED.search(index):
            raise BadMedia("the file's index is compressed, which is not read", param=label)
        if max(index.count(name) for name in _COUNTING) > MAX_BOXES:
            raise TooLarge(f"the file is too large: it has more than {MAX_BOXES} boxes of a kind", param=label)
        samples += sum(_samples(part) for part in _parts(index))
        if samples > len(data):
            raise BadMedia("the file is damaged: it counts more samples than its bytes can hold", param=label)
        if samples > MAX_SAMPLES:
            raise TooLarge(f"the file is too large: it has more than {MAX_SAMPLES} samples, the limit", param=label)


def _parts(index: bytes) -> list[bytes]:
    """`index` cut where its tracks begin; not at all when what looks like a track isn't one, or is somewhere else."""
    starts = []
    for at, end, name in itertools.islice(_children(index, 0, len(index)), MAX_BOXES):
        inside = itertools.islice(_children(index, at + 8, end), _MOST_TRACKS) if name == b"moov" else [(at, end, name)]
        starts += [start for start, _, child in inside if child == b"trak"]
    if len(starts) != index.count(b"trak"):
        return [index]
    return [index[start:end] for start, end in itertools.pairwise([0, *starts, len(index)])]


def _children(index: bytes, at: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """(start, end, name) of the boxes in a row."""
    while at + 8 <= end:
        size = _number(index, at)
        stop = min(at + size, end) if size >= 8 else end
        yield at, stop, index[at + 4 : at + 8]
        at = stop


def _samples(part: bytes) -> int:
    """Entries that FFmpeg makes of one track, or of fragments."""
    counted = sum(_number(part, at + 12) for at in _boxes(part, b"stsz", b"stz2"))
    counted += sum(_number(part, at + 8) for at in _boxes(part, b"trun"))
    durations = [part[at + 8 : at + 20] for at in _boxes(part, b"stts")]
    handlers = {part[at + 12 : at + 16] for at in _boxes(part, b"hdlr")}
    is_plain = bool(durations) and all(told[:4] == told[8:] == b"\0\0\0\1" for told in durations)
    if part.count(b"trak") == 1 and is_plain and b"soun" in handlers and handlers <= _SOUND_HANDLERS:
        return _chunked(part)  # each sample is one moment of sound: FFmpeg makes entries of their chunks instead
    return counted


def _chunked(part: bytes) -> int:
    chunks = sum(_number(part, at + 8) for at in _boxes(part, b"stco", b"co64"))
    entries = 0
    for at in _boxes(part, b"stsc"):
        told = part[at + 12 : at + 12 + 12 * _number(part, at + 8)]
        rows = np.frombuffer(told[: len(told) // 12 * 12], ">u4").reshape(-1, 3).astype(np.int64)
        if len(rows):
            runs = np.maximum(0, np.diff(np.minimum(rows[:, 0], chunks + 1), append=chunks + 1))
            entries += int((runs * (rows[:, 1] // _SAMPLES_PER_ENTRY + 1.0)).sum())
    return entries


def _boxes(index: bytes, *names: bytes) -> Iterator[int]:
    """Where boxes of these names may begin to say something, as if before it stood a usual size."""
    for name in names:
        at = index.find(name)
        while at >= 0:
            yield at + (8 if index[max(0, at - 4) : at] == _LONG_SIZE else 0)
            at = index.find(name, at + 4)


def _number(index: bytes, at: int) -> int:
    return int.from_bytes(index[at : at + 4], "big")


def _indices(data: NDArray[np.uint8], label: str) -> Iterator[bytes]:
    """The file's outermost boxes that may be read as more than media; those in a row in one."""
    at = start = boxes = 0
    while at + 8 <= len(data):
        boxes += 1
        if boxes > MAX_BOXES:
            raise TooLarge(f"the file is too large: it has more than {MAX_BOXES} boxes", param=label)
        size, name = struct.unpack(">I4s", data[at : at + 8].tobytes())
        if size == 1 and at + 16 <= len(data):
            size = int.from_bytes(data[at + 8 : at + 16].tobytes(), "big")
        end = min(at + size if size >= 8 else len(data), len(data))
        if name in _NEVER_READ:
            yield data[start:at].tobytes()
            start = end
        at = end
        if at - start > MAX_INDEX_BYTES:
            raise TooLarge(f"the file is too large: its index has more than {MAX_INDEX_BYTES} bytes", param=label)
    yield data[start:].tobytes()
