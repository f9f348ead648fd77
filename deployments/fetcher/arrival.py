"""A response's body on its way in: counted, paid for with room, and put together where it will stay."""

import time
from collections.abc import Callable

import aiohttp

from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.core.least_rate import LeastRate
from deployments.core.shared_budget import Share
from deployments.errors import MediaHostError
from deployments.fetcher.blob import ByteLimit, Bytes, lazy_buffer
from deployments.fetcher.digest import RunningDigest
from deployments.fetcher.direct import comes_directly, receive_directly
from deployments.fetcher.encoding import ENCODINGS, Inflater


class Arrival:
    """One body. `room` bytes of address space; memory and budget are taken as bytes come."""

    def __init__(self, room: int, limit: ByteLimit, lease: Share) -> None:
        self._limit = limit
        self._lease = lease
        self.buffer = lazy_buffer(room)
        self._view = self.buffer.data
        self.size = 0

    async def add(self, piece: bytes) -> None:
        """Raises `TooLarge` at the first byte beyond the limit."""
        end = self.size + len(piece)
        self._limit.check(end)
        await self._lease.grow(len(piece))
        self._view[self.size : end] = piece
        self.size = end

    def whole(self) -> Bytes:
        """(size,), for whose memory the room stays taken."""
        data = self.buffer[: self.size]
        self._lease.keep_for(data)
        return data


async def receive(
    response: aiohttp.ClientResponse,
    limit: ByteLimit,
    lease: Share,
    rate: LeastRate,
    executor: StageExecutor,
    deadline: Deadline,
    *,
    hashed: bool,
    begun: bytes = b"",
) -> tuple[Bytes, str]:
    """The body of `response`, of which `begun` has been read already, and its SHA-256 where it shall be `hashed`.

    Raises `TooLarge`, `BadMedia`, and `MediaHostError` for a host that is too slow.
    """
    declared = response.content_length
    limit.check(declared or 0)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ENCODINGS | {"identity", ""}:
        raise MediaHostError(f"could not be fetched: {response.url.host} sent an unknown Content-Encoding")
    packed = encoding in ENCODINGS
    arrival = Arrival(limit.max_bytes if declared is None or packed else declared, limit, lease)
    digest = RunningDigest(arrival.buffer, executor, deadline) if hashed else None

    def arrived(size: int) -> None:
        arrival.size = size
        if digest is not None:
            digest.arrived(size)

    try:
        if not packed and declared is not None and comes_directly(response, declared, len(begun)):
            await arrival.add(begun)
            await receive_directly(response, arrival.buffer, len(begun), rate, lease.grow, arrived)
        else:
            await _take_in(response, arrival, arrived, rate, executor, deadline, begun, packed=packed)
        told = "" if digest is None else await digest.finish(arrival.size)
    finally:
        if digest is not None:
            digest.close()
    return arrival.whole(), told


async def _take_in(
    response: aiohttp.ClientResponse,
    arrival: Arrival,
    arrived: Callable[[int], None],
    rate: LeastRate,
    executor: StageExecutor,
    deadline: Deadline,
    begun: bytes,
    *,
    packed: bool,
) -> None:
    inflater = Inflater()
    while piece := begun or await next_piece(response, rate):
        begun = b""
        if not packed:
            await arrival.add(piece)
        else:
            inflater.feed(piece)
            while inflated := await executor.run(deadline, inflater.take):
                await arrival.add(inflated)
        arrived(arrival.size)
    if packed:
        inflater.finish()


async def next_piece(response: aiohttp.ClientResponse, rate: LeastRate) -> bytes:
    """What has come since; empty at the end. Waiting for room is not the host's slowness."""
    began = time.monotonic()
    piece = await response.content.readany()
    if piece and not rate.keeps_up(len(piece), time.monotonic() - began):
        raise MediaHostError(f"could not be fetched: {response.url.host} sends too slowly")
    return piece
