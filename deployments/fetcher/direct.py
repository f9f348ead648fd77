"""A large body straight from its socket to where it will stay: no pieces, and no copies between.

aiohttp reads the head of the answer. Then a protocol of our own takes its connection over, receives into the body's
place, and closes it at the body's end: beside so many bytes, connecting again costs nothing.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import aiohttp

from deployments.core.least_rate import LeastRate
from deployments.errors import MediaHostError
from deployments.fetcher.blob import MIB, Bytes
from deployments.fetcher.transient import TransientError

Growing = Callable[[int], Awaitable[None]]
"""Waits for room for so many bytes more."""

DIRECT_FROM_BYTES = 16 * MIB
"""Still to come. Below it, an open connection to a distant host is worth more than what is saved."""
_STEP_BYTES = MIB
"""Room is taken for so much at a time, and nothing read beyond it."""


def comes_directly(response: aiohttp.ClientResponse, size: int, at: int) -> bool:
    """Whether the rest of a body of `size` bytes, of which `at` have been read, comes as nothing but its bytes."""
    headers, connection = response.headers, response.connection
    if size - at < DIRECT_FROM_BYTES or response.content_length != size or "Transfer-Encoding" in headers:
        return False
    transport = None if connection is None else connection.transport
    return transport is not None and not transport.is_closing()


async def receive_directly(
    response: aiohttp.ClientResponse,
    into: Bytes,
    at: int,
    rate: LeastRate,
    grow: Growing,
    arrived: Callable[[int], None],
) -> None:
    """Fill `into` from `at` on, where `comes_directly`; `arrived` is told how many of its bytes are there.

    Raises `MediaHostError` for a host that is silent or too slow, `TransientError` where the connection ends early.
    """
    body, begun = _take_over(response, into)
    for piece in begun:
        await grow(len(piece))
        body.put(at, piece)
        at += len(piece)
    host = response.url.host
    while at < len(into):
        end = min(at + _STEP_BYTES, len(into))
        await grow(end - at)
        body.read_on(at, end)
        while at < end:
            began = time.monotonic()
            moved = await body.wait(rate.window_s) - at
            if moved and not rate.keeps_up(moved, time.monotonic() - began):
                raise MediaHostError(f"could not be fetched: {host} sends too slowly")
            at += moved
            if at < end and body.ended:
                raise TransientError(f"could not be fetched: {host} broke the connection off")
            if not moved:
                raise MediaHostError(f"could not be fetched: {host} went silent")
        arrived(at)
    response.close()


def _take_over(response: aiohttp.ClientResponse, into: Bytes) -> tuple["_Body", list[bytes]]:
    """The connection's new protocol, not reading yet, and what had been read. Nothing is awaited in between."""
    connection = response.connection
    assert connection is not None, "a body that is not there has a connection"
    transport, former = connection.transport, connection.protocol
    assert transport is not None
    assert former is not None
    begun = []
    while piece := response.content.read_nowait():
        begun.append(piece)
    transport.pause_reading()
    body = _Body(transport, former, into.data)
    transport.set_protocol(body)
    return body, begun


class _Body(asyncio.BufferedProtocol):
    """Reads to where it may, then pauses."""

    def __init__(self, transport: asyncio.Transport, former: asyncio.BaseProtocol, view: memoryview) -> None:
        """`former`: whose connection it is, still to be told of its end."""
        self._transport = transport
        self._former = former
        self._view = view
        self._at = self._end = 0
        self._moved_at = 0.0
        self._stopped = asyncio.Event()
        self.ended = False
        """Nothing more comes."""

    def put(self, at: int, piece: bytes) -> None:
        self._view[at : at + len(piece)] = piece

    def read_on(self, at: int, end: int) -> None:
        """Receive the bytes from `at` to `end`."""
        self._at, self._end, self._moved_at = at, end, time.monotonic()
        if not self.ended:
            self._stopped.clear()
            self._transport.resume_reading()

    async def wait(self, silence_s: float) -> int:
        """How far it has come: to the end, as far as it ever will, or until `silence_s` after what came last before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._moved_at + silence_s - time.monotonic()):
                await self._stopped.wait()
        return self._at

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._at : self._end]

    def buffer_updated(self, nbytes: int) -> None:
        self._at += nbytes
        self._moved_at = time.monotonic()
        if self._at == self._end:
            self._transport.pause_reading()
            self._stopped.set()

    def eof_received(self) -> None:
        self._end_here()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_here()
        self._former.connection_lost(exc)

    def _end_here(self) -> None:
        self.ended = True
        self._stopped.set()
