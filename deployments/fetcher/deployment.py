"""The fetch stage as a Ray Serve deployment: builds the fetcher, awaits it, yields."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, closing

from ray import serve

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.fetcher.fetcher import STAGE, Fetcher
from deployments.serving.ray_metrics import ServeMetricSink
from deployments.serving.replica import hide_gpus, replica_tracer, stage_method
from deployments.stages import Bytes, MediaFetcherReplica
from deployments.types import Fetched, MediaItem, RangesRead, RemoteFile


@serve.deployment
class MediaFetcher(MediaFetcherReplica):
    """Serve makes it, and ends it, on the event loop that its methods run on."""

    def __init__(self, config: AppConfig) -> None:
        self._open = AsyncExitStack()  # what is still to be closed: less than everything where this fails
        hide_gpus()
        self.tracer = self._open.enter_context(closing(replica_tracer(config.tracing)))
        self._fetcher = Fetcher(config.media, ServeMetricSink(), hashes=config.keeps_media)
        self._open.push_async_callback(self._fetcher.close)

    @stage_method
    async def fetch(
        self, remaining_s: float, item: MediaItem, data_url: Bytes | None = None
    ) -> AsyncGenerator[Fetched | Bytes, None]:
        """Yields `Fetched`, then the bytes, uint8 (size_bytes,), unless `item.known` names them.

        `data_url`: the text of a `data:` URL, uint8.
        """
        fetched, data = await self._fetcher.fetch(item, Deadline(remaining_s, STAGE), data_url)
        yield fetched
        if data is not None:
            yield data

    @stage_method
    async def confirm(self, remaining_s: float, item: MediaItem) -> AsyncGenerator[Fetched, None]:
        """Yields `Fetched` alone."""
        fetched, _ = await self._fetcher.fetch(item, Deadline(remaining_s, STAGE))
        yield fetched

    @stage_method
    async def read_ranges(
        self, remaining_s: float, file: RemoteFile, ranges: tuple[tuple[int, int], ...]
    ) -> AsyncGenerator[RangesRead | Bytes, None]:
        """Yields `RangesRead`, then the ranges one after the other, uint8."""
        read, data = await self._fetcher.read_ranges(file, ranges, Deadline(remaining_s, STAGE))
        yield read
        yield data

    async def check_health(self) -> None:
        self._fetcher.check_health()

    async def __del__(self) -> None:
        await self._open.aclose()
