"""One pooled HTTP session: a URL becomes bytes, hop by checked hop, within limits of size and time.

Knows HTTP and its failures; knows nothing of media, kinds or requests. Errors are raised as predicates ("could not be
fetched: ..."): who asks knows the subject. This is the one seam at which aiohttp's errors become ours.
"""

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL

from deployments.config import MediaConfig
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.errors import InternalError, MediaHostError, MediaNotReachable, SluiceError
from deployments.fetcher.addresses import AddressPolicy
from deployments.fetcher.blob import MIB, OWN_LACKS, ByteLimit, Bytes
from deployments.fetcher.budget import ByteBudget, lazy_buffer
from deployments.fetcher.cache import Freshness
from deployments.fetcher.encoding import ENCODINGS, inflate
from deployments.fetcher.resolver import GuardedResolver, Lookup
from deployments.fetcher.urls import UrlPolicy, describe

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT_STATUSES = frozenset({502, 503, 504})
_READ_BUFFER_BYTES = MIB // 4
"""Large enough to read in few calls, small enough to be still in the cache when it is copied to its place."""
_FIRST_PAUSE_S = 0.1
_RESOLVED_FOR_S = 10.0


@dataclass(frozen=True, slots=True)
class Download:
    """The answer to a GET; `data` is None when the host says that the ETag still holds."""

    data: Bytes | None
    final_url: URL
    freshness: Freshness
    redirected: bool


class HttpClient:
    """Made inside the event loop that uses it; owns its session until `close`."""

    def __init__(
        self,
        config: MediaConfig,
        budget: ByteBudget,
        executor: StageExecutor,
        lookup: Lookup,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`lookup` resolves names; `ssl_context` None trusts the system's certificates."""
        self._config = config
        self._budget = budget
        self._executor = executor
        addresses = AddressPolicy(config.allowed_networks)
        self.urls = UrlPolicy(addresses, config.allowed_domains)
        self._slots = asyncio.Semaphore(config.max_connections)
        connector = aiohttp.TCPConnector(
            limit=0,  # the slots bound it: waiting for one must not count as time to connect
            resolver=GuardedResolver(lookup, addresses),
            ttl_dns_cache=int(_RESOLVED_FOR_S),
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

    async def get(self, url: URL, limit: ByteLimit, deadline: Deadline, etag: str | None = None) -> Download:
        """The bytes at `url`, one of `self.urls.parse`; tried again after failures that may pass.

        Raises `MediaNotReachable`, `MediaHostError`, `TooLarge`, `BadMedia`. The caller bounds the whole by a timeout;
        `deadline` is for threads and for pauses, which are not begun when they would outlast it.
        """
        for attempt in range(self._config.max_retries + 1):
            try:
                return await self._follow(url, limit, deadline, etag)
            except _TransientError as failure:
                pause_s = _FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5)
                if attempt == self._config.max_retries or pause_s >= deadline.remaining_s():
                    raise MediaHostError(failure.message) from failure.__cause__
                await asyncio.sleep(pause_s)
        raise AssertionError("the loop returns or raises")

    def check_health(self) -> None:
        """Raise `InternalError` when the session can't be used any more."""
        if self._session.closed:
            raise InternalError("the fetch stage's HTTP session is closed")

    async def close(self) -> None:
        await self._session.close()

    async def _follow(self, url: URL, limit: ByteLimit, deadline: Deadline, etag: str | None) -> Download:
        redirected = False
        for _ in range(self._config.max_redirects + 1):
            async with self._slots, _exchange(self._session, url, etag) as response:
                if response.status not in _REDIRECTS:
                    data = None if _still_holds(response, etag) else await self._read(response, limit, deadline)
                    return Download(data, url, Freshness.of(response.headers), redirected)
                location = response.headers.get("Location")
                if location is None:
                    raise MediaHostError(f"could not be fetched: {url.host} redirects without saying where")
                url = self.urls.follow(url, location)
                redirected, etag = True, None  # an ETag speaks of the URL that it came from only
        raise MediaNotReachable(f"is redirected more than {self._config.max_redirects} times")

    async def _read(self, response: aiohttp.ClientResponse, limit: ByteLimit, deadline: Deadline) -> Bytes:
        """The body of a 200, counted while it arrives. Room for all of it is taken first."""
        _check_status(response)
        declared = response.content_length
        limit.check(declared or 0)
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ENCODINGS | {"identity", ""}:
            raise MediaHostError(f"could not be fetched: {response.url.host} sent an unknown Content-Encoding")
        room = limit.max_bytes if declared is None else declared
        packed = encoding in ENCODINGS
        with await self._budget.take(room + limit.max_bytes * packed) as lease:
            data = await _receive(response, room, limit)
            if packed:
                data = await self._executor.run(deadline, inflate, data, limit, deadline)
            lease.keep_for(data)
        data.flags.writeable = False
        return data


class _TransientError(MediaHostError):
    """A failure that may pass: worth another try."""


@asynccontextmanager
async def _exchange(
    session: aiohttp.ClientSession, url: URL, etag: str | None
) -> AsyncGenerator[aiohttp.ClientResponse, None]:
    """A GET and its answer's headers; aiohttp's errors become ours, also those of reading the body."""
    headers = {} if etag is None else {"If-None-Match": etag}
    try:
        async with session.get(url, allow_redirects=False, headers=headers) as response:
            yield response
    except SluiceError:
        raise
    except (aiohttp.ClientError, OSError) as error:
        raise _meaning(error, url) from error


def _meaning(error: Exception, url: URL) -> SluiceError:
    """What a failed exchange is to the client; the order is from the special to the general."""
    host = url.host
    os_error = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(os_error, OSError) and os_error.errno in OWN_LACKS and not isinstance(os_error, socket.gaierror):
        return InternalError("could not be fetched: this server is out of connections")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        passing = getattr(os_error, "errno", None) == socket.EAI_AGAIN
        return (_TransientError if passing else MediaHostError)(f"could not be fetched: no address found for {host}")
    if isinstance(error, aiohttp.ClientSSLError):
        return MediaHostError(f"could not be fetched: no trusted TLS connection to {host}")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _TransientError(f"could not be fetched: connecting to {host} took too long")
    if isinstance(error, aiohttp.ServerTimeoutError):
        return MediaHostError(f"could not be fetched: {host} went silent")
    if isinstance(error, aiohttp.InvalidURL):
        return MediaNotReachable("has a malformed URL")
    if isinstance(error, aiohttp.ClientConnectorError):
        return _TransientError(f"could not be fetched: {host} refuses the connection or can't be reached")
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
        return _TransientError(f"could not be fetched: {host} broke the connection off")
    return MediaHostError(f"could not be fetched: {host} does not speak HTTP properly")


def _still_holds(response: aiohttp.ClientResponse, etag: str | None) -> bool:
    return etag is not None and response.status == 304


def _check_status(response: aiohttp.ClientResponse) -> None:
    said = f"could not be fetched: {describe(response.url)} answered {response.status}"
    if response.status == 200:
        return
    if response.status in _TRANSIENT_STATUSES:
        raise _TransientError(said)
    if 400 <= response.status < 500 and response.status not in (408, 429):
        raise MediaNotReachable(said)
    raise MediaHostError(said)


async def _receive(response: aiohttp.ClientResponse, room: int, limit: ByteLimit) -> Bytes:
    """The body, put together where it will stay; `room` bytes, or fewer when its length was not declared."""
    buffer = lazy_buffer(room)
    view = buffer.data
    size = 0
    async for piece in response.content.iter_any():
        end = size + len(piece)
        limit.check(end)
        view[size:end] = piece
        size = end
    return buffer[:size]
