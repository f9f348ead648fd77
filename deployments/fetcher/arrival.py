"""A response's body on its way in: counted, paid for with room, and put together where it will stay."""

import time

import aiohttp

from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.core.least_rate import LeastRate
from deployments.core.shared_budget import Share
from deployments.errors import MediaHostError
from deployments.fetcher.blob import ByteLimit, Bytes, lazy_buffer
from deployments.fetcher.encoding import ENCODINGS, Inflater


class Arrival:
    """One body. `room` bytes of address space; memory and budget are taken as bytes come."""

    def __init__(self, room: int, limit: ByteLimit, lease: Share) -> None:
        self._limit = limit
        self._lease = lease
        self._buffer = lazy_buffer(room)
        self._view = self._buffer.data
        self._size = 0

    async def add(self, piece: bytes) -> None:
        """Raises `TooLarge` at the first byte beyond the limit."""
        end = self._size + len(piece)
        self._limit.check(end)
        await self._lease.grow(len(piece))
        self._view[self._size : end] = piece
        self._size = end

    def whole(self) -> Bytes:
        """(size,), for whose memory the room stays taken."""
        data = self._buffer[: self._size]
        self._lease.keep_for(data)
        return data


async def receive(
    response: aiohttp.ClientResponse,
    limit: ByteLimit,
    lease: Share,
    rate: LeastRate,
    executor: StageExecutor,
    deadline: Deadline,
) -> Bytes:
    """The body of `response`. Raises `TooLarge`, `BadMedia`, and `MediaHostError` for a host that is too slow."""
    declared = response.content_length
    limit.check(declared or 0)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ENCODINGS | {"identity", ""}:
        raise MediaHostError(f"could not be fetched: {response.url.host} sent an unknown Content-Encoding")
    packed = encoding in ENCODINGS
    arrival = Arrival(limit.max_bytes if declared is None or packed else declared, limit, lease)
    inflater = Inflater()
    while piece := await _next(response, rate):
        if not packed:
            await arrival.add(piece)
            continue
        inflater.feed(piece)
        while inflated := await executor.run(deadline, inflater.take):
            await arrival.add(inflated)
    if packed:
        inflater.finish()
    return arrival.whole()


async def _next(response: aiohttp.ClientResponse, rate: LeastRate) -> bytes:
    """What has come since; empty at the end. Waiting for room is not the host's slowness."""
    began = time.monotonic()
    piece = await response.content.readany()
    if piece and not rate.keeps_up(len(piece), time.monotonic() - began):
        raise MediaHostError(f"could not be fetched: {response.url.host} sends too slowly")
    return piece
