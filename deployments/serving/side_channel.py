"""The values of a stream, past Ray: by a Unix socket from the replica that yields them to the process that called it.

Each value of a stream of Ray's costs 0.3 to 0.9 ms of CPU time in three processes, one of which chooses tokens; by this
way it costs 0.1 ms in two. The call itself stays Ray's: its place at the replica, its cancellation, its errors
and the replica's death are seen there, and so are the values where caller and replica are on two nodes. What is sent
within one turn of the replica's event loop, for all of a caller's streams, crosses in one write.

A socket's name is random and known to whoever is called; it takes connections of its own user alone, since what comes
is unpickled. Linux has such sockets, without a file; elsewhere nothing is sent past Ray. Knows no Ray.
"""

import asyncio
import contextlib
import itertools
import os
import pickle
import secrets
import socket
import struct
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from deployments.errors import StageUnavailable

_HEAD = struct.Struct(">QI")
"""Of each value: the number of its stream, and the bytes that follow."""
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group at the other end."""
_SETTLE_S = 5.0
"""Longest wait for values that were sent before the call ended; they are in a buffer of this machine."""


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where a caller takes the values of one stream. Travels with the call."""

    node: str
    address: str
    number: int


@dataclass(frozen=True, slots=True)
class SentAside:
    """What such a stream yields to Ray at its end: how many values it sent."""

    count: int


class Inbox:
    """The values of one call, whichever way they come."""

    def __init__(self, reply_to: ReplyTo | None, closed: Callable[[], object]) -> None:
        self.reply_to = reply_to
        self._closed = closed
        self._values: deque[Any] = deque()
        self._woken = asyncio.Event()
        self._missing = 0
        """Values that were sent and have not come."""
        self._error: BaseException | None = None
        self._ended = False

    async def follow(self, response: AsyncIterator[Any]) -> None:
        """Take what comes by Ray, to the end of the call or its failure, which `next` raises."""
        try:
            async for value in response:
                if isinstance(value, SentAside):
                    self._missing += value.count
                else:
                    self._add(value)
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._ended = True
            self._woken.set()

    def deliver(self, value: Any) -> None:
        """Take what came by the socket."""
        self._missing -= 1
        self._add(value)

    async def next(self) -> Any:
        """The next value. Raises `StopAsyncIteration` after the last one, and what the call has failed with."""
        while not self._values:
            if self._error is not None:
                raise self._error
            if self._ended and self._missing == 0:
                raise StopAsyncIteration
            self._woken.clear()
            try:
                async with asyncio.timeout(_SETTLE_S if self._ended else None):
                    await self._woken.wait()
            except TimeoutError:
                raise StageUnavailable("a part of the answer was lost on its way") from None
        return self._values.popleft()

    def close(self) -> None:
        """Nothing is taken any more."""
        self._closed()

    def _add(self, value: Any) -> None:
        self._values.append(value)
        self._woken.set()


class Inboxes:
    """Those of one process that calls, on the event loop that it calls from."""

    def __init__(self, node: str) -> None:
        """`node`: names the machine, as replicas know it."""
        self._node = node
        self._numbers = itertools.count()
        self._open: dict[int, Inbox] = {}
        self._address = ""
        self._accepting: asyncio.Task[None] | None = None

    def open(self) -> Inbox:
        """For one call; to be closed."""
        if sys.platform != "linux":
            return Inbox(None, lambda: None)
        if self._accepting is None:
            self._listen()
        number = next(self._numbers)
        inbox = Inbox(ReplyTo(self._node, self._address, number), lambda: self._open.pop(number, None))
        self._open[number] = inbox
        return inbox

    def close(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None

    def _listen(self) -> None:
        self._address = f"\0sluice-{secrets.token_hex(16)}"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.setblocking(False)
        listening.bind(self._address)
        listening.listen()
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listening))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening, contextlib.ExitStack() as taken:
            while True:
                connection, _ = await loop.sock_accept(listening)
                if _user(connection) != os.getuid():
                    connection.close()
                    continue
                transport, _ = await loop.connect_accepted_socket(lambda: _Receiver(self._deliver), connection)
                taken.callback(transport.close)

    def _deliver(self, number: int, body: bytes) -> None:
        inbox = self._open.get(number)
        if inbox is not None:  # else the caller has left
            inbox.deliver(pickle.loads(body))


class _Receiver(asyncio.Protocol):
    def __init__(self, deliver: Callable[[int, bytes], object]) -> None:
        self._deliver = deliver
        self._buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        buffer, start = self._buffer, 0
        buffer += data
        while len(buffer) - start >= _HEAD.size:
            number, size = _HEAD.unpack_from(buffer, start)
            body = start + _HEAD.size
            if len(buffer) < body + size:
                break
            start = body + size
            self._deliver(number, bytes(buffer[body:start]))
        del buffer[:start]


class Outbox:
    """The connections of one process that is called, to those who call it, on its event loop."""

    def __init__(self) -> None:
        self._transports: dict[str, asyncio.WriteTransport] = {}

    async def sender(self, reply_to: ReplyTo, node: str) -> "Sender | None":
        """Sends to `reply_to` from `node`; None where that can't be reached."""
        if reply_to.node != node:
            return None
        transport = self._transports.get(reply_to.address)
        if transport is None or transport.is_closing():
            transport = await self._connect(reply_to.address)
        return None if transport is None else Sender(transport, reply_to.number)

    async def _connect(self, address: str) -> asyncio.WriteTransport | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(address)  # at once, or not at all
            if _user(connection) != os.getuid():
                raise PermissionError("the socket is another user's")
        except OSError:
            connection.close()
            return None
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=connection)
        self._transports = {name: known for name, known in self._transports.items() if not known.is_closing()}
        self._transports[address] = transport
        return transport


class Sender:
    """Sends the values of one stream."""

    def __init__(self, transport: asyncio.WriteTransport, number: int) -> None:
        self._transport, self._number = transport, number
        self.count = 0

    @property
    def is_lost(self) -> bool:
        """Whether the caller has gone."""
        return self._transport.is_closing()

    def send(self, value: object) -> None:
        """Raises `StageUnavailable` when the caller has gone."""
        if self.is_lost:
            raise StageUnavailable("the caller can't be reached any more")
        body = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        self._transport.write(_HEAD.pack(self._number, len(body)) + body)
        self.count += 1


def _user(connection: socket.socket) -> int:
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(said)[1])
