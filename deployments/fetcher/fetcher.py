"""What the fetch stage does: an item's bytes, wherever its URL points, checked to be what the item says they are."""

import asyncio
import ssl
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from yarl import URL

from deployments.config import MediaConfig
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.core.shared_budget import SharedBudget
from deployments.errors import BadMedia, SluiceError, StageTimeout
from deployments.fetcher.blob import Blob, ByteLimit, Bytes, lazy_buffer
from deployments.fetcher.cache import NOTHING_KNOWN, Entry, MediaCache
from deployments.fetcher.client import HttpClient
from deployments.fetcher.data_url import decode_data_url, parse_data_url
from deployments.fetcher.digest import digest_of
from deployments.fetcher.flights import Flights
from deployments.fetcher.local_files import LocalFolder
from deployments.fetcher.range_reader import RangeReader
from deployments.fetcher.resolver import Lookup, SystemLookup
from deployments.fetcher.urls import describe
from deployments.media.picture_size import declared_pixels
from deployments.media.sniff import HEAD_BYTES, is_safetensors, sniff
from deployments.observability.metrics import MetricSink
from deployments.types import CacheUse, Fetched, MediaItem, MediaKind, RangesRead, RemoteFile, StageName

STAGE = StageName.FETCH
_OWN_SHARE = 0.25
"""Of a replica's room, for what is there already (`data:` and `file:`): it never waits for media hosts."""
_NOUNS = {MediaKind.IMAGE: "an image", MediaKind.VIDEO: "a video", MediaKind.AUDIO: "audio"}


class Fetcher:
    """Made inside the event loop that uses it; owns the HTTP session, the threads and the memory until `close`."""

    def __init__(
        self,
        config: MediaConfig,
        metrics: MetricSink,
        *,
        lookup: Lookup | None = None,
        ssl_context: ssl.SSLContext | None = None,
        hashes: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lookup` None asks the system's resolver; `ssl_context` None trusts the system's certificates; `hashes`:
        whether items get digests; `clock`: for how long names and media are known."""
        self._config = config
        self._metrics = metrics
        self._limits = {
            MediaKind.IMAGE: ByteLimit(MediaKind.IMAGE, config.max_image_bytes),
            MediaKind.VIDEO: ByteLimit(MediaKind.VIDEO, config.max_video_bytes),
            MediaKind.AUDIO: ByteLimit(MediaKind.AUDIO, config.max_audio_bytes),
        }
        self._system_lookup = SystemLookup(config.lookup_timeout_s, config.name_servers)
        self._embeds_limit = ByteLimit("embeddings", config.max_embeds_bytes)
        self._executor = StageExecutor(STAGE, config.workers)
        own_bytes = int(config.max_buffered_bytes * _OWN_SHARE)
        self._room = SharedBudget(own_bytes)
        largest = max(limit.max_bytes for limit in self._limits.values())
        arriving = SharedBudget(config.max_buffered_bytes - own_bytes + config.cache_bytes, reserve=largest)
        names = lookup or self._system_lookup
        self._http = HttpClient(config, arriving, self._executor, names, ssl_context, hashes=hashes, clock=clock)
        self._ranges = RangeReader(self._http, arriving)
        self._folder = LocalFolder(config.local_root)
        self._hashes = hashes
        self._flights: Flights[_Loaded] = Flights()
        self._cache = MediaCache(config.cache_bytes, metrics, clock, per_client=config.cache_per_key)

    async def fetch(
        self, item: MediaItem, deadline: Deadline, data_url: Bytes | None = None
    ) -> tuple[Fetched, Bytes | None]:
        """The item's metadata and its bytes, read-only uint8 (size_bytes,); None for contents that `item.known` names.

        `data_url`: the text of a `data:` URL, uint8 (characters,), when `item.url` is None. Every error names the
        item: `MediaNotReachable`, `MediaHostError`, `BadMedia`, `TooLarge`, and `StageTimeout` when `deadline`, or
        the stage's own limit, is over.
        """
        started = time.monotonic()
        deadline = deadline.capped(self._config.total_timeout_s, STAGE)
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                limit = self._embeds_limit if item.embeds else self._limits[item.kind]
                loaded = await self._load(item, limit, deadline, data_url)
            blob = loaded.blob
            container = _embeds(blob.data) if item.embeds else _container(blob.data, item.kind)
        except (SluiceError, TimeoutError) as error:
            ours = error if isinstance(error, SluiceError) else StageTimeout(STAGE)
            self._metrics.count("sluice_fetches", kind=item.kind, outcome=ours.code)
            raise _named(ours, item.label) from error
        self._metrics.count("sluice_fetches", kind=item.kind, outcome="ok")
        self._metrics.count("sluice_fetched_bytes", len(blob.data), kind=item.kind)
        seconds = time.monotonic() - started
        pixels = declared_pixels(blob.data, container)
        fetched = Fetched(
            item.kind, container, len(blob.data), blob.source, seconds, blob.digest, loaded.use, blob.remote, pixels
        )
        return fetched, None if blob.digest in item.known else blob.data

    async def read_ranges(
        self, file: RemoteFile, ranges: Sequence[tuple[int, int]], deadline: Deadline
    ) -> tuple[RangesRead, Bytes]:
        """Bytes `start` to `stop` (exclusive) of `file` for each range, one after the other, read-only.

        Raises as `fetch` does, without the item's name: who asks knows it.
        """
        started = time.monotonic()
        deadline = deadline.capped(self._config.total_timeout_s, STAGE)
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                data = await self._ranges.read(file, ranges, deadline)
        except TimeoutError as error:
            raise StageTimeout(STAGE) from error
        seconds = time.monotonic() - started
        if data is None:
            return RangesRead(0, seconds, refused=True), lazy_buffer(0)
        self._metrics.count("sluice_fetched_bytes", len(data), kind=MediaKind.VIDEO)
        return RangesRead(len(data), seconds), data

    def check_health(self) -> None:
        """Raise `InternalError` when the session is broken or threads do not stop."""
        self._metrics.gauge("sluice_threads_busy", self._executor.running, stage=STAGE)
        self._http.check_health()
        self._executor.check_health()

    async def close(self) -> None:
        """End what is under way; afterwards nothing can be fetched."""
        await self._flights.close()
        await self._http.close()
        self._executor.close()
        await self._system_lookup.close()

    async def _load(self, item: MediaItem, limit: ByteLimit, deadline: Deadline, data_url: Bytes | None) -> "_Loaded":
        if item.url is None:
            assert data_url is not None, "an item without a URL comes with the text of its data: URL"
            return _Loaded(await self._load_data_url(data_url, limit, deadline))
        if item.url[:5].lower() == "file:":
            return _Loaded(await self._load_file(item.url, limit, deadline))
        return await self._load_http(self._http.urls.parse(item.url), limit, deadline, item)

    async def _load_data_url(self, text: Bytes, limit: ByteLimit, deadline: Deadline) -> Blob:
        url = parse_data_url(text)
        limit.check(url.size_bytes)
        buffer = await self._own_buffer(url.size_bytes)
        data = await self._executor.run(deadline, decode_data_url, url, buffer, deadline)
        return _blob(data, None, await self._digest(data, deadline))

    async def _load_file(self, url: str, limit: ByteLimit, deadline: Deadline) -> Blob:
        size_bytes = await self._executor.run(deadline, self._folder.size_bytes, url)
        limit.check(size_bytes)
        data = await self._own_buffer(size_bytes)
        await self._executor.run(deadline, self._folder.read_into, url, data, deadline)
        return _blob(data, url, await self._digest(data, deadline))

    async def _own_buffer(self, size_bytes: int) -> Bytes:
        """(size_bytes,), once there is room for what is no media host's; the room is taken as long as anybody holds it,
        a thread that fills it for nobody included.
        """
        with self._room.open() as lease:
            await lease.grow(size_bytes)
            buffer = lazy_buffer(size_bytes)
            lease.keep_for(buffer)
        return buffer

    async def _digest(self, data: Bytes, deadline: Deadline) -> str:
        return await self._executor.run(deadline, digest_of, data) if self._hashes else ""

    async def _load_http(self, url: URL, limit: ByteLimit, deadline: Deadline, item: MediaItem) -> "_Loaded":
        """From the cache, from a fetch that is under way for an item of the same kind, or from the host."""
        if not item.cache:
            return await self._download(url, limit, item.client, None, in_parts=item.in_parts, keep=False)
        known = self._cache.get(str(url), item.client)
        told = known is not None and known.blob.digest and known.blob.digest == item.confirmed
        if known is not None and (told or self._cache.is_fresh(known)):
            for hop in (url, *known.hops):  # what may not be dialled now is not answered either
                await self._http.check_host(hop, item.client)
            limit.check(len(known.blob.data))
            self._cache.record(hits=1)
            return _Loaded(known.blob, CacheUse.HIT)
        key = (str(url), limit.kind, item.in_parts)
        loaded = await self._join(key, url, limit, deadline, item, known)
        if loaded.client not in (None, item.client):  # private, and somebody else's
            loaded = await self._join((*key, item.client), url, limit, deadline, item, None)
        return loaded

    async def _join(
        self, key: Hashable, url: URL, limit: ByteLimit, deadline: Deadline, item: MediaItem, known: Entry | None
    ) -> "_Loaded":
        if self._flights.under_way(key):
            self._metrics.count("sluice_fetch_joined")
        client, in_parts = item.client, item.in_parts
        return await self._flights.join(
            key, lambda: self._download(url, limit, client, known, in_parts=in_parts, keep=True), deadline
        )

    async def _download(
        self, url: URL, limit: ByteLimit, client: str, known: Entry | None, *, in_parts: bool, keep: bool
    ) -> "_Loaded":
        """For whoever joins, so with a time of its own; on the account of the client who came first."""
        deadline = Deadline(self._config.total_timeout_s, STAGE)
        async with asyncio.timeout(deadline.remaining_s()):
            validators, at = (known.validators, (url, *known.hops)[-1]) if known else (NOTHING_KNOWN, None)
            answer = await self._http.get(url, limit, deadline, client, validators, at, in_parts=in_parts)
            alone = client if answer.freshness.private or self._config.cache_per_key else None
            if answer.data is None:
                assert known is not None, "only what was kept can be confirmed"
                self._cache.confirm(str(url), known, answer.freshness, client, answer.hops)
                limit.check(len(known.blob.data))
                self._cache.record(hits=1)
                return _Loaded(known.blob, CacheUse.REVALIDATED, client if known.private else alone)
            blob = replace(_blob(answer.data, describe((url, *answer.hops)[-1]), answer.digest), remote=answer.remote)
        if not keep or answer.remote is not None:  # a beginning is not the file
            return _Loaded(blob, CacheUse.OFF, alone)
        self._cache.put(str(url), blob, answer.freshness, client, answer.hops)
        self._cache.record(misses=1)
        return _Loaded(blob, CacheUse.MISS if self._config.cache_bytes else CacheUse.OFF, alone)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A blob, and how it was come by."""

    blob: Blob
    use: CacheUse = CacheUse.MISS
    client: str | None = None
    """The one client who may have it; None: everybody."""


def _blob(data: Bytes, source: str | None, digest: str) -> Blob:
    data.flags.writeable = False
    return Blob(data, source, digest)


def _container(data: Bytes, kind: MediaKind) -> str:
    """The container that the bytes are, if items of this kind may be that. Raises `BadMedia` saying what they are."""
    found = sniff(data[:HEAD_BYTES].tobytes())
    if len(data) == 0:
        raise BadMedia(f"is not {_NOUNS[kind]}: it is empty")
    if found.container is None or not found.may_be(kind):
        raise BadMedia(f"is not {_NOUNS[kind]}: its bytes look like {found.looks_like}")
    return found.container


def _embeds(data: Bytes) -> str:
    if not is_safetensors(data[:HEAD_BYTES].tobytes()):
        raise BadMedia("is not a safetensors file")
    return "safetensors"


def _named(error: SluiceError, label: str) -> SluiceError:
    """The error of this item: several requests may share a download that failed, each has its own name for it."""
    if isinstance(error, StageTimeout):
        return StageTimeout(error.stage, param=label)
    return type(error)(f"{label} {error.message}", param=label, retry_after_s=error.retry_after_s)
