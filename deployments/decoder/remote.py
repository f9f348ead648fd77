"""A file that stays with its host, as the threads of this stage read it: by ranges, through the fetcher.

Knows bytes and ranges, nothing of containers. The fetcher alone talks to the network; how its answers come here is the
business of `RangeSource`.
"""

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.decoder.mp4_index import SampleIndex
from deployments.decoder.plan import Run
from deployments.errors import TooLarge
from deployments.types import RemoteFile

Ranges = tuple[tuple[int, int], ...]

GAP_BYTES = 64 * 2**10
"""Bytes between two wanted ones that are read along: a request costs more."""
BATCH_BYTES = 8 * 2**20
"""Asked for at once; while one batch is decoded, the next one is on its way."""
_LOOK_S = 0.05
"""Between two looks at the deadline while bytes are on their way."""


class RangesNotServed(Exception):
    """The host has no ranges after all: the file must be fetched whole."""


class RangeSource(Protocol):
    """Where ranges come from: the fetcher's door in the application, memory in tests."""

    async def read(self, file: RemoteFile, ranges: Ranges, deadline: Deadline) -> NDArray[np.uint8] | None:
        """The ranges, one after the other; None when the host does not keep to ranges."""
        ...


class RemoteBytes:
    """One file, for one thread. Counts what is read of it."""

    def __init__(
        self, source: RangeSource, loop: asyncio.AbstractEventLoop, file: RemoteFile, deadline: Deadline, label: str
    ) -> None:
        """`loop`: on which `source` works."""
        self._source = source
        self._loop = loop
        self._deadline = deadline
        self._label = label
        self.file = file
        self.read_bytes = 0
        self._pending: set[concurrent.futures.Future[Any]] = set()

    def ask(self, ranges: Ranges) -> "concurrent.futures.Future[NDArray[np.uint8] | None]":
        """Begin to read. Raises as `check`."""
        size_bytes = sum(stop - start for start, stop in ranges)
        self.check(size_bytes)
        self.read_bytes += size_bytes
        future = asyncio.run_coroutine_threadsafe(self._source.read(self.file, ranges, self._deadline), self._loop)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def check(self, more_bytes: int) -> None:
        """Raise `TooLarge` when so many, with what was read before, are more than may be read."""
        limit = self.file.max_read_bytes
        if self.read_bytes + more_bytes > limit:
            said = f"the video is too large: more than {limit} bytes of it would have to be read"
            raise TooLarge(said, param=self._label)

    def wait(self, future: "concurrent.futures.Future[NDArray[np.uint8] | None]") -> NDArray[np.uint8]:
        """What was asked for. Raises `RangesNotServed`, what the fetcher raises, and at the deadline."""
        while True:
            self._deadline.check()
            done, _ = concurrent.futures.wait([future], _LOOK_S)
            if done:
                break
        if (data := future.result()) is None:
            raise RangesNotServed
        return data

    def read(self, start: int, stop: int) -> bytes:
        return self.wait(self.ask(((start, stop),))).tobytes()

    def close(self) -> None:
        """End what is still on its way."""
        for future in list(self._pending):
            future.cancel()


class RemotePackets:
    """The packets of a remote file, fetched batch by batch ahead of their decoding; at most two batches are held."""

    def __init__(self, remote: RemoteBytes, index: SampleIndex, stream: Any) -> None:
        self._remote = remote
        self._index = index
        self._stream = stream
        self._batches: deque[_Batch] = deque()
        self._held: dict[int, NDArray[np.uint8]] = {}
        self._next: tuple[_Batch, concurrent.futures.Future[NDArray[np.uint8] | None]] | None = None

    def __len__(self) -> int:
        return len(self._index.sizes)

    def __getitem__(self, number: int) -> Any:
        while number not in self._held:
            self._advance()
        packet = av.Packet(self._held[number].tobytes())
        packet.stream = self._stream
        packet.time_base = self._stream.time_base
        packet.pts, packet.dts = int(self._index.table.pts[number]), int(self._index.dts[number])
        packet.is_keyframe = bool(self._index.table.is_key[number])
        return packet

    def expect(self, runs: Sequence[Run]) -> None:
        numbers = np.concatenate([np.arange(run.start, run.stop) for run in runs])
        self._batches = deque(batches(numbers, self._index))
        self._remote.check(sum(stop - start for batch in self._batches for start, stop in batch.ranges))
        self._ask()

    def close(self) -> None:
        """Let go of what was fetched."""
        self._held = {}

    def _ask(self) -> None:
        self._next = None
        if self._batches:
            batch = self._batches.popleft()
            self._next = batch, self._remote.ask(batch.ranges)

    def _advance(self) -> None:
        assert self._next is not None, "packets are expected before they are asked for"
        batch, future = self._next
        data = self._remote.wait(future)
        self._ask()
        self._held = batch.cut(data, self._index)


class _Batch:
    """Packets that are fetched together."""

    def __init__(self, numbers: NDArray[np.int64], ranges: Ranges) -> None:
        self._numbers = numbers
        self.ranges = ranges

    def cut(self, data: NDArray[np.uint8], index: SampleIndex) -> dict[int, NDArray[np.uint8]]:
        """The packets' bytes, views of `data`, which is all ranges one after the other."""
        begins = np.array([start for start, _ in self.ranges])
        places = np.cumsum([0] + [stop - start for start, stop in self.ranges])
        starts, sizes = index.starts[self._numbers], index.sizes[self._numbers]
        which = np.searchsorted(begins, starts, side="right") - 1
        at = places[which] + starts - begins[which]
        return {int(n): data[a : a + size] for n, a, size in zip(self._numbers, at, sizes, strict=True)}


def batches(numbers: NDArray[np.int64], index: SampleIndex) -> list[_Batch]:
    """`numbers` in their order, in pieces of about `BATCH_BYTES`, each with the ranges that hold it."""
    if not len(numbers):
        return []
    piece = np.cumsum(index.sizes[numbers]) // BATCH_BYTES
    cuts = np.flatnonzero(np.diff(piece)) + 1
    return [_Batch(part, merged_ranges(index.starts[part], index.sizes[part])) for part in np.split(numbers, cuts)]


def merged_ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> Ranges:
    """The fewest ranges that hold these bytes without reading more than `GAP_BYTES` between two of them."""
    order = np.argsort(starts, kind="stable")
    begins, ends = starts[order], np.maximum.accumulate(starts[order] + sizes[order])
    apart = np.flatnonzero(begins[1:] - ends[:-1] > GAP_BYTES) + 1
    firsts, lasts = np.concatenate([[0], apart]), np.concatenate([apart - 1, [len(begins) - 1]])
    return tuple((int(begins[first]), int(ends[last])) for first, last in zip(firsts, lasts, strict=True))
