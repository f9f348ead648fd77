"""The index of an MP4 or QuickTime file by itself: where each sample of its video lies, and when it is shown.

FFmpeg opens a file that is nothing but `ftyp` and `moov`, and tells position, size, keyframes and edit lists of all
samples without reading one. What it doesn't tell is by how much a sample is shown after it is decoded (`ctts`); that is
read here, from the tables that say where the samples are.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.decoder.plan import PacketTable

Box = tuple[int, int]
"""Where the content of a box begins and ends."""
Ints = NDArray[np.int64]


class NoIndex(Exception):
    """The index doesn't say enough, or not in the usual way: the file must be read whole. Says why."""


@dataclass(frozen=True, slots=True)
class SampleIndex:
    """The samples of a video track in decode order; P is their number."""

    table: PacketTable
    dts: Ints
    """(P,) in the stream's time base."""
    starts: Ints
    """(P,) where each begins in the file."""
    sizes: Ints
    """(P,) in bytes."""


def boxes(data: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int, int]]:
    """(name, start, start of the content, end) of the boxes in a row; the last may end behind `data`."""
    end = len(data) if end is None else end
    while at + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            if at + 16 > end:
                return
            size, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        if size < head:
            return  # 0: to the end of the file, and no index behind it
        yield name, at, at + head, at + size
        at += size


def read_index(stream: Any, moov: bytes) -> SampleIndex:
    """The samples of `stream`, opened from the box `moov`. Raises `NoIndex`."""
    if b"mvex" in moov or b"sinf" in moov or b"cmov" in moov:
        raise NoIndex("its index is fragmented, encrypted or compressed")
    try:
        starts, sizes, offsets = _sample_tables(moov, stream.id)
    except (struct.error, ValueError, IndexError, KeyError) as error:
        raise NoIndex("its index is unusual") from error
    entries = stream.index_entries
    told = np.array([(e.pos, e.size, e.timestamp, e.is_keyframe, e.is_discard) for e in entries], np.int64)
    if not len(told) or not len(starts):
        raise NoIndex("its index is empty")
    order = np.argsort(starts, kind="stable")
    numbers = order[np.minimum(np.searchsorted(starts[order], told[:, 0]), len(order) - 1)]
    if not ((starts[numbers] == told[:, 0]) & (sizes[numbers] == told[:, 1])).all():
        raise NoIndex("its index is unusual")  # where two samples share a place, say
    shift = max(0, -int(offsets.min()))
    pts = told[:, 2] + offsets[numbers] + shift
    table = PacketTable(pts, told[:, 3].astype(np.bool_), told[:, 4].astype(np.bool_))
    if table.is_hidden.all() or not table.has_distinct_times():
        raise NoIndex("its frames share their times")
    return SampleIndex(table, told[:, 2], told[:, 0], told[:, 1])


def _sample_tables(moov: bytes, track_id: int) -> tuple[Ints, Ints, Ints]:
    """Start, size, and time from decoding to showing, of each sample of the track, as the file's tables say."""
    for name, _, begin, end in boxes(moov, 8):
        if name == b"trak" and _track_id(moov, (begin, end)) == track_id:
            tables = _children(moov, _inside(moov, (begin, end), b"mdia", b"minf", b"stbl"))
            sizes = _sizes(moov, tables[b"stsz"])
            return _starts(moov, tables, sizes), sizes, _offsets(moov, tables.get(b"ctts"), len(sizes))
    raise KeyError(track_id)


def _track_id(moov: bytes, track: Box) -> int:
    begin, _ = _inside(moov, track, b"tkhd")
    return int(struct.unpack_from(">I", moov, begin + (20 if moov[begin] else 12))[0])


def _inside(moov: bytes, box: Box, *path: bytes) -> Box:
    for name in path:
        box = _children(moov, box)[name]
    return box


def _children(moov: bytes, box: Box) -> dict[bytes, Box]:
    return {name: (begin, min(end, box[1])) for name, _, begin, end in boxes(moov, *box)}


def _numbers(moov: bytes, at: int, count: int, kind: str = ">u4") -> Ints:
    return np.frombuffer(moov, kind, count, at).astype(np.int64)


def _sizes(moov: bytes, box: Box) -> Ints:
    fixed, count = struct.unpack_from(">II", moov, box[0] + 4)
    if fixed:
        raise ValueError("video whose samples are all of one size")
    return _numbers(moov, box[0] + 12, count)


def _starts(moov: bytes, tables: dict[bytes, Box], sizes: Ints) -> Ints:
    wide = b"co64" in tables
    begin, _ = tables[b"co64" if wide else b"stco"]
    chunks = _numbers(moov, begin + 8, _count(moov, begin), ">u8" if wide else ">u4")
    begin, _ = tables[b"stsc"]
    rows = _numbers(moov, begin + 8, 3 * _count(moov, begin)).reshape(-1, 3)
    runs = np.diff(np.append(rows[:, 0] - 1, len(chunks)))
    if (runs < 0).any() or int((runs * rows[:, 1]).sum()) < len(sizes) or int(rows[:, 1].max()) > len(sizes):
        raise ValueError("chunks that don't hold the samples")
    per_chunk = np.repeat(rows[:, 1], runs)[: len(sizes)]  # each holds a sample at least
    if (per_chunk < 1).any():
        raise ValueError("empty chunks")
    chunk_of = np.repeat(np.arange(len(per_chunk)), per_chunk)[: len(sizes)]
    first_of = np.cumsum(per_chunk) - per_chunk
    before = np.cumsum(sizes) - sizes
    return np.asarray(chunks[chunk_of] + before - before[first_of[chunk_of]])


def _offsets(moov: bytes, box: Box | None, samples: int) -> Ints:
    offsets = np.zeros(samples, np.int64)
    if box is None:
        return offsets
    rows = np.frombuffer(moov, ">i4", 2 * _count(moov, box[0]), box[0] + 8).astype(np.int64).reshape(-1, 2)
    if (rows[:, 0] < 0).any() or int(rows[:, 0].sum()) > samples:
        raise ValueError("more times than samples")
    told = np.repeat(rows[:, 1], rows[:, 0])
    offsets[: len(told)] = told
    return offsets


def _count(moov: bytes, begin: int) -> int:
    return int(struct.unpack_from(">I", moov, begin + 4)[0])
