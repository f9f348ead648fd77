"""Fetching over HTTP: the stage's pooled client against a new session for each request, as it is usually written.

    python -m benchmarks fetch [--quick]

The server is a process of its own which does as little as a server can. Ours includes all that the stage does: checking
the URL and the address, counting, sniffing the container. The usual way only reads the body.

"Bare pool" is one aiohttp session that does nothing but `read()`. The ceiling is one blocking socket after the other
receiving into a buffer that is already there: what loopback and the server can do.
"""

import asyncio
import multiprocessing
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

import aiohttp
import numpy as np
import uvloop

from benchmarks.kit.harness import Benchmark, Timing, compare, in_subprocess, peak_rss_bytes
from deployments.config import MediaConfig
from deployments.core.deadline import Deadline
from deployments.fetcher.fetcher import Fetcher
from deployments.observability.metrics import RecordingSink
from deployments.types import MediaItem, MediaKind

JPEG_MAGIC = b"\xff\xd8\xff\xe0"
LARGEST_BYTES = 50 * 10**6
CONTENDERS = ("new session per request", "bare pool", "ours")


@dataclass(frozen=True, slots=True)
class Case:
    """`files` fetched at once, each of `size_bytes`, each by a URL of its own."""

    name: str
    files: int
    size_bytes: int

    def urls(self, port: int) -> list[str]:
        return [f"http://127.0.0.1:{port}/{self.size_bytes}/{number}.jpg" for number in range(self.files)]


CASES = (Case("200 x 20 kB", 200, 20_000), Case("200 x 200 kB", 200, 200_000), Case("20 x 50 MB", 20, LARGEST_BYTES))


# ── the media host ───────────────────────────────────────────────────────────────────────────────────────────────────


class _Host(asyncio.Protocol):
    """Answers each GET of `/<bytes>/...` with so many bytes; keeps the connection."""

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)
        self._asked = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._asked += data
        while b"\r\n\r\n" in self._asked:
            request, _, self._asked = self._asked.partition(b"\r\n\r\n")
            size = int(request.split(b"/", 2)[1])
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % size)
            self._transport.write(self._body[:size])


def _serve(port: Connection, seed: int) -> None:
    body = JPEG_MAGIC + np.random.default_rng(seed).bytes(LARGEST_BYTES)

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: _Host(body), "127.0.0.1", 0, backlog=1024)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


@contextmanager
def media_host(seed: int) -> Iterator[int]:
    """The port of a media host in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, seed), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


# ── the contenders ───────────────────────────────────────────────────────────────────────────────────────────────────


class Contender:
    """One way to fetch, with whatever it keeps between requests; runs on an event loop of its own."""

    def __init__(self, name: str) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._fetch, self._close = self._runner.run(_CONTENDERS[name]())

    def fetch_all(self, urls: list[str]) -> int:
        """Fetch all at once, hold all of them, return the bytes."""
        return self._runner.run(self._gather(urls))

    def close(self) -> None:
        self._runner.run(self._close())
        self._runner.close()

    async def _gather(self, urls: list[str]) -> int:
        arrays = await asyncio.gather(*(self._fetch(url) for url in urls))
        return sum(array.nbytes for array in arrays)


Fetch = Callable[[str], Awaitable[np.ndarray]]
Made = tuple[Fetch, Callable[[], Awaitable[None]]]


async def _new_session_per_request() -> Made:
    async def fetch(url: str) -> np.ndarray:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return np.frombuffer(await response.read(), np.uint8)

    async def close() -> None:
        return

    return fetch, close


async def _bare_pool() -> Made:
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=256))

    async def fetch(url: str) -> np.ndarray:
        async with session.get(url) as response:
            return np.frombuffer(await response.read(), np.uint8)

    return fetch, session.close


async def _ours() -> Made:
    settings = {"allowed_networks": ["127.0.0.0/8"], "max_image_bytes": LARGEST_BYTES, "read_timeout_s": 60}
    config = MediaConfig.model_validate(settings)
    fetcher = Fetcher(config, RecordingSink())

    async def fetch(url: str) -> np.ndarray:
        _, data = await fetcher.fetch(MediaItem(MediaKind.IMAGE, url, url), Deadline(60.0, "request"))
        return data

    return fetch, fetcher.close


_CONTENDERS = dict(zip(CONTENDERS, (_new_session_per_request, _bare_pool, _ours), strict=True))


def receive_all(port: int, case: Case) -> None:
    """The ceiling: the same bytes through one connection into one buffer."""
    buffer = memoryview(bytearray(2**20))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(case.files):
            connection.sendall(b"GET /%d/x HTTP/1.1\r\n\r\n" % case.size_bytes)
            head = connection.recv(65536)
            left = case.size_bytes - len(head.partition(b"\r\n\r\n")[2])
            while left:
                received = connection.recv_into(buffer[: min(left, len(buffer))])
                if received == 0:
                    raise ConnectionResetError("the media host has gone")
                left -= received


def _peak_of(name: str, urls: list[str]) -> tuple[int, int]:
    """(resident bytes before, peak while fetching); in a process of its own."""
    contender = Contender(name)
    contender.fetch_all(urls[:1])
    before = peak_rss_bytes()
    contender.fetch_all(urls)
    contender.close()
    return before, peak_rss_bytes()


# ── the question ─────────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    bench = Benchmark("fetch", "What does a pooled, checked, counted fetch cost against a new session per request?")
    with media_host(bench.seed) as port:
        timings = {case: _compare(case, port, bench.quick) for case in CASES}
        peaks = _peaks(bench, CASES[-1], port)
    results = {case.name: {name: t.wall_ms for name, t in timings[case].items()} for case in CASES}
    gains = {case.name: results[case.name][CONTENDERS[0]] / results[case.name]["ours"] for case in CASES}
    for case in CASES:
        bench.table(case.name, ["fetched by", "wall ms", "CPU ms", "MB/s", "times as fast"], _rows(case, timings[case]))
    bench.table(
        f"{CASES[-1].name}: memory, all of them held",
        ["fetched by", "peak MB above idle", "per byte held"],
        [[name, peak / 1e6, peak / CASES[-1].files / CASES[-1].size_bytes] for name, peak in peaks.items()],
    )
    bench.plot(
        "bars",
        "Times as fast as a new session per request",
        x=[case.name for case in CASES],
        series={n: [results[case.name][CONTENDERS[0]] / results[case.name][n] for case in CASES] for n in CONTENDERS},
    )
    least = peaks["ours"] / CASES[-1].files / CASES[-1].size_bytes
    answer = (
        f"Against a new session per request: {', '.join(f'{gain:.2g}x for {name}' for name, gain in gains.items())}, "
        f"checks included; {least:.2f} bytes of memory for each byte held instead of "
        f"{peaks[CONTENDERS[0]] / CASES[-1].files / CASES[-1].size_bytes:.2f}."
    )
    bench.finish(answer, {"wall_ms": results, "peak_bytes": peaks})


def _compare(case: Case, port: int, quick: bool) -> dict[str, Timing]:
    contenders = {name: Contender(name) for name in CONTENDERS}
    rounds = (1 if quick else 5) if case.size_bytes == LARGEST_BYTES else (3 if quick else 21)
    calls: dict[str, Callable[[], object]] = {
        name: partial(contender.fetch_all, case.urls(port)) for name, contender in contenders.items()
    }
    calls["ceiling: bare sockets"] = partial(receive_all, port, case)
    timings = compare(calls, rounds=rounds, label=case.name)
    for contender in contenders.values():
        contender.close()
    return timings


def _rows(case: Case, timings: dict[str, Timing]) -> list[list[object]]:
    megabytes = case.files * case.size_bytes / 1e6
    usual = timings[CONTENDERS[0]].wall_ms
    return [[name, t.wall_ms, t.cpu_ms, megabytes / t.wall_ms * 1e3, usual / t.wall_ms] for name, t in timings.items()]


def _peaks(bench: Benchmark, case: Case, port: int) -> dict[str, int]:
    peaks = {}
    for name in bench.progress(CONTENDERS, "memory"):
        (before, peak), _ = in_subprocess(_peak_of, name, case.urls(port))
        peaks[name] = peak - before
    return peaks


if __name__ == "__main__":
    main()
