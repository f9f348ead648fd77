"""One pooled HTTP session: a URL becomes bytes, hop by checked hop, within limits of size and time.

Knows HTTP and its failures; knows nothing of media, kinds or requests. Errors are raised as predicates ("could not be
fetched: ..."): who asks knows the subject. This is the one seam at which aiohttp's errors become ours.
"""

import asyncio
import functools
import random
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import numpy as np
from yarl import URL

from deployments.config import MediaConfig
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.core.least_rate import LeastRate
from deployments.core.shared_budget import SharedBudget
from deployments.errors import InternalError, MediaHostError, MediaNotReachable, SluiceError
from deployments.fetcher.addresses import AddressPolicy
from deployments.fetcher.arrival import next_piece, receive
from deployments.fetcher.blob import MIB, OWN_LACKS, ByteLimit, Bytes
from deployments.fetcher.cache import NOTHING_KNOWN, Freshness, Validators
from deployments.fetcher.direct import Growing
from deployments.fetcher.ranges import (
    check_range,
    is_readable_in_parts,
    range_headers,
    receive_range,
    remote_file,
)
from deployments.fetcher.resolver import CheckedAddresses, Lookup, NameResolver
from deployments.fetcher.transient import TransientError
from deployments.fetcher.urls import UrlPolicy, describe, is_literal
from deployments.types import RemoteFile

T = TypeVar("T")

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT_STATUSES = frozenset({502, 503, 504})
_READ_BUFFER_BYTES = MIB // 4
"""Large enough to read in few calls, small enough to be still in the cache when it is copied to its place."""
_FIRST_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Download:
    """The answer to a GET; `data` is None when the host says that what is known of it still holds."""

    data: Bytes | None
    digest: str
    """SHA-256 of `data`, where it is wanted."""
    hops: tuple[URL, ...]
    """Where redirects led, one after the other; the last one answered."""
    freshness: Freshness
    remote: RemoteFile | None = None
    """Set where `data` is only the beginning of a file that stays with its host; then without a digest."""


class HttpClient:
    """Made inside the event loop that uses it; owns its session until `close`."""

    def __init__(
        self,
        config: MediaConfig,
        room: SharedBudget,
        executor: StageExecutor,
        lookup: Lookup,
        ssl_context: ssl.SSLContext | None = None,
        *,
        hashes: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`room`: for what arrives; `lookup` resolves names; `ssl_context` None trusts the system's certificates;
        `hashes`: whether digests are wanted; `clock`: for how long names are known."""
        self._config = config
        self._room = room
        self._executor = executor
        self._hashes = hashes
        addresses = AddressPolicy(config.allowed_networks)
        self.urls = UrlPolicy(addresses, config.allowed_domains)
        self._slots = SharedBudget(config.max_connections)
        self._names = NameResolver(lookup, addresses, config.lookup_timeout_s, clock)
        connector = aiohttp.TCPConnector(
            limit=0,  # the slots bound it: waiting for one must not count as time to connect
            resolver=CheckedAddresses(self._names),
            use_dns_cache=False,
            ssl=True if ssl_context is None else ssl_context,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=config.connect_timeout_s, sock_read=config.read_timeout_s
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER_BYTES,
            headers={"User-Agent": config.user_agent, "Accept-Encoding": "identity"},
        )

    async def get(
        self,
        url: URL,
        limit: ByteLimit,
        deadline: Deadline,
        client: str,
        known: Validators = NOTHING_KNOWN,
        known_at: URL | None = None,
        *,
        in_parts: bool = False,
    ) -> Download:
        """The bytes at `url`, one of `self.urls.parse`; tried again after failures that may pass.

        `client`: on whose account connections, look-ups and room are taken. `known`: what an earlier answer
        of `known_at`, whether redirects led there or not, said of itself, for its host to say that it still holds; no
        other URL is shown that. `in_parts`: whether a file that can be read by ranges may stay
        where it is.

        Raises `MediaNotReachable`, `MediaHostError`, `TooLarge`, `BadMedia`. The caller bounds the whole by a timeout;
        `deadline` is for threads and for pauses, which are not begun when they would outlast it.
        """
        return await self._persistently(
            lambda: self._follow(url, limit, deadline, client, known, known_at, in_parts=in_parts), deadline
        )

    async def read_range(self, file: RemoteFile, start: int, into: Bytes, deadline: Deadline, grow: Growing) -> None:
        """Fill `into` with the bytes of `file` from `start` on; tried again after failures that may pass.

        Raises `RangesRefused` where the host does not keep to ranges, `MediaHostError` also for a file that has
        changed since its beginning was read, and as `get` does.
        """
        await self._persistently(lambda: self._read_range(file, start, into, grow), deadline)

    async def _persistently(self, attempt_once: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        for attempt in range(self._config.max_retries + 1):
            try:
                return await attempt_once()
            except TransientError as failure:
                pause_s = _FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5)
                if attempt == self._config.max_retries or pause_s >= deadline.remaining_s():
                    raise MediaHostError(failure.message) from failure.__cause__
                await asyncio.sleep(pause_s)
        raise AssertionError("the loop returns or raises")

    async def check_host(self, url: URL, client: str) -> None:
        """Raise `MediaNotReachable` where the host of `url` may not be dialled now, `MediaHostError` where nobody can
        tell: for what is had without dialling it."""
        host = url.raw_host or ""
        if is_literal(host):
            return
        try:
            await self._names.resolve(host, client)
        except TransientError as failure:
            raise MediaHostError(failure.message) from failure

    def check_health(self) -> None:
        """Raise `InternalError` when the session can't be used any more."""
        if self._session.closed:
            raise InternalError("the fetch stage's HTTP session is closed")

    async def close(self) -> None:
        await self._names.close()
        await self._session.close()

    async def _read_range(self, file: RemoteFile, start: int, into: Bytes, grow: Growing) -> None:
        """A redirect here is refused as no range: the URL is what earlier redirects led to."""
        url = self.urls.parse(file.url)
        async with self._exchange(url, file.client, range_headers(file, start, len(into))) as response:
            if response.status not in (200, 206, 412, 416) and response.status not in _REDIRECTS:
                _check_status(response)
            check_range(response, file, start, len(into))
            rate = LeastRate(self._config.min_rate_bytes_s, self._config.read_timeout_s)
            await receive_range(response, into, rate, grow)

    async def _follow(
        self,
        url: URL,
        limit: ByteLimit,
        deadline: Deadline,
        client: str,
        known: Validators,
        known_at: URL | None,
        *,
        in_parts: bool,
    ) -> Download:
        hops: list[URL] = []
        redirects: list[Freshness] = []
        for _ in range(self._config.max_redirects + 1):
            shown = known if url == known_at else NOTHING_KNOWN
            async with self._exchange(url, client, shown.headers()) as response:
                freshness = Freshness.of(response.headers)
                if response.status not in _REDIRECTS:
                    freshness = functools.reduce(Freshness.through, redirects, freshness)
                    if _still_holds(response, shown):
                        return Download(None, "", tuple(hops), freshness)
                    remote = remote_file(response, url, self._config) if in_parts else None
                    data, digest, remote = await self._read(response, limit, deadline, client, remote)
                    return Download(data, digest, tuple(hops), freshness, remote)
                location = response.headers.get("Location")
                if location is None:
                    raise MediaHostError(f"could not be fetched: {url.host} redirects without saying where")
                url = self.urls.follow(url, location)
                hops.append(url)
                redirects.append(freshness)
        raise MediaNotReachable(f"is redirected more than {self._config.max_redirects} times")

    async def _read(
        self,
        response: aiohttp.ClientResponse,
        limit: ByteLimit,
        deadline: Deadline,
        client: str,
        remote: RemoteFile | None,
    ) -> tuple[Bytes, str, RemoteFile | None]:
        """The body of a 200 and its digest; room is taken as it arrives. Only its beginning, without a digest, where
        the file is `remote` and of a kind that is read by ranges: the rest is left with the host, by closing the
        connection.
        """
        _check_status(response)
        rate = LeastRate(self._config.min_rate_bytes_s, self._config.read_timeout_s)
        with self._room.open(f"client {client}", f"host {response.url.host}") as lease:
            begun = b"" if remote is None else await next_piece(response, rate)
            if remote is not None and is_readable_in_parts(begun):
                response.close()
                return np.frombuffer(begun, np.uint8), "", remote
            data, digest = await receive(
                response, limit, lease, rate, self._executor, deadline, hashed=self._hashes, begun=begun
            )
        data.flags.writeable = False
        return data, digest, None

    @asynccontextmanager
    async def _exchange(
        self, url: URL, client: str, headers: Mapping[str, str]
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """A GET and its answer's headers; aiohttp's errors become ours, also those of reading the body."""
        host = url.raw_host or ""
        with self._slots.open(f"client {client}", f"host {host}") as slot:
            await slot.grow(1)
            if not is_literal(host):
                await self._names.resolve(host, client)
            try:
                async with asyncio.timeout(self._config.connect_timeout_s + self._config.read_timeout_s):
                    response = await self._session.get(url, allow_redirects=False, headers=headers)
                async with response:
                    yield response
            except SluiceError:
                raise
            except TimeoutError as error:
                if isinstance(error, aiohttp.ClientError):
                    raise _meaning(error, url) from error
                raise MediaHostError(f"could not be fetched: {host} takes too long to say its headers") from error
            except (aiohttp.ClientError, OSError) as error:
                raise _meaning(error, url) from error


def _meaning(error: Exception, url: URL) -> SluiceError:
    """What a failed exchange is to the client; the order is from the special to the general."""
    host = url.host
    os_error = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(os_error, OSError) and os_error.errno in OWN_LACKS and not isinstance(os_error, socket.gaierror):
        return InternalError("could not be fetched: this server is out of connections")
    if isinstance(error, aiohttp.ClientSSLError):
        return MediaHostError(f"could not be fetched: no trusted TLS connection to {host}")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TransientError(f"could not be fetched: connecting to {host} took too long")
    if isinstance(error, aiohttp.ServerTimeoutError):
        return MediaHostError(f"could not be fetched: {host} went silent")
    if isinstance(error, aiohttp.InvalidURL):
        return MediaNotReachable("has a malformed URL")
    if isinstance(error, aiohttp.ClientConnectorError):
        return TransientError(f"could not be fetched: {host} refuses the connection or can't be reached")
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
        return TransientError(f"could not be fetched: {host} broke the connection off")
    return MediaHostError(f"could not be fetched: {host} does not speak HTTP properly")


def _still_holds(response: aiohttp.ClientResponse, known: Validators) -> bool:
    return bool(known) and response.status == 304


def _check_status(response: aiohttp.ClientResponse) -> None:
    said = f"could not be fetched: {describe(response.url)} answered {response.status}"
    if response.status == 200:
        return
    if response.status in _TRANSIENT_STATUSES:
        raise TransientError(said)
    if 400 <= response.status < 500 and response.status not in (408, 429):
        raise MediaNotReachable(said)
    raise MediaHostError(said)
