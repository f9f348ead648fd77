"""A real media host on loopback, in its own thread, that can misbehave in all the ways media hosts do.

    with MediaServer() as server:
        url = server.add("/clip.mp4", serve(data, etag='"1"'))
        ...
        assert server.hits("/clip.mp4") == 1

Behaviours are made by the functions below (`serve`, `stalled`, `redirect`, ...) and given a path with `add`.
"""

import asyncio
import itertools
import ssl
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from aiohttp import web

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Hit:
    """A request that reached the server."""

    path: str
    headers: dict[str, str]
    """By lower-case name."""


@dataclass
class MediaServer:
    """Listens on `host` and a free port while the `with` block lasts; paths without a behaviour answer 404."""

    host: str = "127.0.0.1"
    ssl_context: ssl.SSLContext | None = None
    hits_seen: list[Hit] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> "MediaServer":
        self._behaviours: dict[str, Behaviour] = {}
        self._connections: set[int] = set()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def add(self, path: str, behaviour: Behaviour | bytes) -> str:
        """The URL at which `behaviour` (or just these bytes) can be had from now on."""
        self._behaviours[path] = serve(behaviour) if isinstance(behaviour, bytes) else behaviour
        return self.url(path)

    def url(self, path: str) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.ssl_context else 'http'}://{name}:{self.port}{path}"

    def hits(self, path: str) -> int:
        """Requests for `path` so far."""
        return sum(hit.path == path for hit in self.hits_seen)

    @property
    def connections(self) -> int:
        """TCP connections that carried a request so far."""
        return len(self._connections)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, self.host, 0, ssl_context=self.ssl_context, backlog=1024)
        await site.start()
        self.port = runner.addresses[0][1]
        ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.hits_seen.append(Hit(request.path, {name.lower(): value for name, value in request.headers.items()}))
        if request.transport is not None:
            self._connections.add(hash(request.transport.get_extra_info("peername")))
        behaviour = self._behaviours.get(request.path)
        return web.Response(status=404) if behaviour is None else await behaviour(request)  # type: ignore[arg-type]


def serve(data: bytes, *, etag: str | None = None, cache_control: str | None = None, **headers: str) -> Behaviour:
    """`data` with a true `Content-Length`; 304 to an `If-None-Match` that names `etag`."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers |= {"Cache-Control": cache_control} if cache_control else {}
    headers |= {"ETag": etag} if etag else {}

    async def answer(request: web.Request) -> web.StreamResponse:
        if etag is not None and request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=data, headers=headers)

    return answer


class Ranged:
    """`data` by `Range`, of the version `etag`; counts what it sends. `lie` changes an answer's headers."""

    def __init__(self, data: bytes, etag: str = '"1"', lie: Mapping[str, str] | None = None) -> None:
        self.data, self.etag, self.lie = data, etag, dict(lie or {})
        self.ranges: list[tuple[int, int]] = []
        """(start, stop) of each that was asked for."""
        self.whole = 0
        """Answers that were the whole file, or as much of it as was taken."""

    @property
    def sent_bytes(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        headers = {"ETag": self.etag, "Accept-Ranges": "bytes", **self.lie}
        asked = request.http_range
        if asked.start is None or request.headers.get("If-Range", self.etag) != self.etag:
            self.whole += 1
            return web.Response(body=self.data, headers=headers)
        self.ranges.append((asked.start, asked.stop))
        part = self.data[asked.start : asked.stop]
        place = f"bytes {asked.start}-{asked.start + len(part) - 1}/{len(self.data)}"
        return web.Response(status=206, body=part, headers={"Content-Range": place, **headers})


def status(code: int, **headers: str) -> Behaviour:
    """An empty answer of this status."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers=headers)

    return answer


def redirect(location: str | None, code: int = 302) -> Behaviour:
    """A redirect; None leaves the `Location` out."""
    return status(code) if location is None else status(code, Location=location)


def chunked(data: bytes, *, piece: int = 65536, pause_s: float = 0.0) -> Behaviour:
    """`data` without a `Content-Length`, `piece` bytes at a time."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(data), piece):
            await response.write(data[start : start + piece])
            await asyncio.sleep(pause_s)
        await response.write_eof()
        return response

    return answer


def endless(piece: bytes = b"\0" * 65536) -> Behaviour:
    """A chunked body that never ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        while True:
            await response.write(piece)

    return answer


def slow(data: bytes, *, pause_s: float, piece: int = 1024) -> Behaviour:
    """`data` with a true length, `piece` bytes each `pause_s` seconds."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await _head(request, len(data))
        for start in range(0, len(data), piece):
            await response.write(data[start : start + piece])
            await asyncio.sleep(pause_s)
        return response

    return answer


def stalled(data: bytes = b"", *, declared: int | None = None) -> Behaviour:
    """`declared` bytes promised (None: not even headers), `data` sent, then silence."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if declared is not None:
            response = await _head(request, declared)
            await response.write(data)
        await asyncio.sleep(3600)
        raise AssertionError("nobody waits for an hour")

    return answer


def held(data: bytes, gate: threading.Event) -> Behaviour:
    """`data`, but only once the test has set `gate`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.to_thread(gate.wait, 20)
        return web.Response(body=data)

    return answer


def cut(data: bytes, *, declared: int) -> Behaviour:
    """`declared` bytes promised, `data` sent, then the connection is reset."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await _head(request, declared)
        await response.write(data)
        await asyncio.sleep(0.02)
        assert request.transport is not None
        request.transport.abort()
        return response

    return answer


def reset() -> Behaviour:
    """The connection is reset before the first byte of an answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return answer


def in_turn(behaviours: Iterable[Behaviour]) -> Behaviour:
    """Each request gets the next behaviour; the last one stays."""
    turns = list(behaviours)
    remaining = itertools.chain(turns[:-1], itertools.repeat(turns[-1]))

    async def answer(request: web.Request) -> web.StreamResponse:
        return await next(remaining)(request)

    return answer


def gzip_bomb(inflated: int) -> Behaviour:
    """`Content-Encoding: gzip`; `inflated` zeros in about a thousandth of the bytes, whatever the client accepts."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = packer.compress(bytes(inflated)) + packer.flush()
    return serve(data, Content_Encoding="gzip")


async def _head(request: web.Request, length: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(length)})
    await response.prepare(request)
    return response
