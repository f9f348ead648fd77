"""A media host on loopback in its own process: files by number, each with the `ETag` and length that hosts send."""

import asyncio
import itertools
import multiprocessing
import threading
from multiprocessing.connection import Connection
from types import TracebackType

import uvloop
from aiohttp import web

from benchmarks.kit.load.media import MIME_TYPES, MediaKind


class MediaHost:
    """Listens on 127.0.0.1 and a free port while the `with` block lasts."""

    def __enter__(self) -> "MediaHost":
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        self._port: int = self._pipe.recv()
        self._numbers = itertools.count()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.join()

    def add(self, kind: MediaKind, data: bytes) -> str:
        """The URL at which `data` can be had from now on."""
        path = f"/{next(self._numbers)}"
        self._pipe.send((path, MIME_TYPES[kind], data))
        self._pipe.recv()  # the file is there once it was confirmed
        return f"http://127.0.0.1:{self._port}{path}"


def _serve(pipe: Connection) -> None:
    uvloop.run(_serve_until_killed(pipe))


async def _serve_until_killed(pipe: Connection) -> None:
    files: dict[str, tuple[str, bytes]] = {}

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path not in files:
            return web.Response(status=404)
        content_type, data = files[request.path]
        etag = f'"{request.path[1:]}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        return web.Response(body=data, content_type=content_type, headers={"ETag": etag})

    def take() -> None:
        while True:
            path, content_type, data = pipe.recv()
            files[path] = (content_type, data)
            pipe.send(path)

    app = web.Application()
    app.router.add_get("/{number}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    pipe.send(runner.addresses[0][1])
    # A loop would make the pipe one that does not block, and a file arrives in many pieces.
    threading.Thread(target=take, daemon=True).start()
    await asyncio.Event().wait()
