"""A media host that means harm: it promises, drips, never ends its headers, packs air. Raw sockets, one thread."""

import asyncio
import contextlib
import functools
import threading
import zlib
from collections.abc import Awaitable, Callable
from types import TracebackType

PROMISED_BYTES = 512 * 2**20 - 1
_HELD = bytes(40 * 2**20)
_OK = b"HTTP/1.1 200 OK\r\n"

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def _drip(writer: asyncio.StreamWriter) -> None:
    """A large file, a byte a second."""
    writer.write(_OK + b"Content-Length: %d\r\n\r\n" % PROMISED_BYTES)
    while True:
        writer.write(b"\0")
        await writer.drain()
        await asyncio.sleep(1)


async def _hold(writer: asyncio.StreamWriter) -> None:
    """Forty megabytes at once, and then nothing."""
    writer.write(_OK + b"Content-Length: %d\r\n\r\n" % PROMISED_BYTES)
    writer.write(_HELD)
    await writer.drain()
    await asyncio.sleep(3600)


async def _headers(writer: asyncio.StreamWriter) -> None:
    """Header lines without end."""
    writer.write(_OK)
    while True:
        writer.write(b"X: a\r\n")
        await writer.drain()
        await asyncio.sleep(0.5)


async def _bomb(writer: asyncio.StreamWriter) -> None:
    """A gigabyte of zeros in a megabyte."""
    body = _packed()
    writer.write(_OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


@functools.cache
def _packed() -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(2**10)) + packer.flush()


BEHAVIOURS: dict[str, Behaviour] = {"drip": _drip, "hold": _hold, "headers": _headers, "bomb": _bomb}


class SlowHost:
    """Listens on a loopback address of its own while the `with` block lasts."""

    def __enter__(self) -> "SlowHost":
        _packed()  # which takes seconds
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def url(self, behaviour: str, number: str) -> str:
        return f"http://127.0.0.5:{self._port}/{behaviour}?{number}"

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.5", 0))
        self._port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))  # they hear of it
        self._loop.close()

    @staticmethod
    async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            await BEHAVIOURS[head.split(b"?")[0].rpartition(b"/")[2].decode()](writer)
        writer.close()
