"""One media item's way to the preprocessor: put what came in the body into shared memory, fetch, decode videos."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.errors import SluiceError
from deployments.ingress.admission.lane import Lease
from deployments.ingress.http.timing import Timings
from deployments.ingress.pipeline.costs import decoded_bytes, source_bytes
from deployments.ingress.request import ItemPlan, Source
from deployments.stages import MediaFetching, StageResult, TensorRef, VideoDecoding
from deployments.types import DecodedVideo, Fetched, MediaInput, StageName, VideoTask

COPY_WORKERS = 2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ItemTask:
    """An item and, for a video, how it is to be decoded."""

    item: ItemPlan
    video: VideoTask | None
    pixel_bytes: int
    """What its pixels are expected to hold."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What belongs to a request while its items are worked on."""

    deadline: Deadline
    timings: Timings
    lease: Lease


class ItemLoader:
    """Fetches and decodes items. One for an ingress replica."""

    def __init__(
        self,
        config: AppConfig,
        fetcher: MediaFetching,
        decoder: VideoDecoding,
        put: Callable[[NDArray[Any]], TensorRef],
    ) -> None:
        self._config = config
        self._fetcher = fetcher
        self._decoder = decoder
        self._put = put
        self._copies = StageExecutor(StageName.INGRESS, COPY_WORKERS)

    async def load(self, task: ItemTask, progress: Progress) -> tuple[MediaInput, TensorRef | None]:
        """The item as the preprocessor takes it; nothing but its size of one that is only counted.

        Raises `SluiceError`s whose `param` is the item.
        """
        if not task.item.sources:
            return _media_input(task.item, "", None), None
        try:
            fetched = await together(self._fetch(source, progress) for source in task.item.sources)
            metas: list[Fetched] = [result.meta for result in fetched]
            refs = [_payload(result) for result in fetched]
            fetched.clear()
            if task.video is None:
                return _media_input(task.item, metas[0].container, None), refs[0]
            decoded = await self._decode(task, task.video, refs, progress)
            return _media_input(task.item, metas[0].container, decoded.meta), _payload(decoded)
        except SluiceError as error:
            error.param = error.param or task.item.label
            raise

    def check_health(self) -> None:
        self._copies.check_health()

    def close(self) -> None:
        self._copies.close()

    async def _fetch(self, source: Source, progress: Progress) -> StageResult[Fetched]:
        assumed_bytes = source_bytes(source, self._config)
        limited = progress.deadline.capped(self._config.media.total_timeout_s, StageName.FETCH)
        data_url = await self._shared(source, limited) if source.data is not None else None
        started = time.monotonic()
        try:
            item = replace(source.item, client=progress.lease.client)
            result = await self._fetcher.fetch(limited, item, data_url)
        finally:
            progress.lease.outside_s = max(progress.lease.outside_s, time.monotonic() - started)
        progress.timings.note(StageName.FETCH, result.seconds, worked_s=result.meta.fetch_s)
        progress.lease.resize(progress.lease.size_bytes - assumed_bytes + result.meta.size_bytes)
        return result

    async def _shared(self, source: Source, deadline: Deadline) -> TensorRef:
        """A reference to the text of a `data:` URL, whose only other copy is let go."""
        text = source.take()
        assert text is not None
        return await self._copies.run(deadline, self._put, np.frombuffer(text, np.uint8))

    async def _decode(
        self, task: ItemTask, video: VideoTask, refs: list[TensorRef], progress: Progress
    ) -> StageResult[DecodedVideo]:
        limited = progress.deadline.capped(self._config.decoder.timeout_s, StageName.VIDEO_DECODE)
        if task.item.is_list:
            result = await self._decoder.decode_pictures(limited, video, refs)
        else:
            result = await self._decoder.decode(limited, video, refs[0])
        progress.timings.note(StageName.VIDEO_DECODE, result.seconds, worked_s=result.meta.decode_s)
        progress.lease.resize(progress.lease.size_bytes - task.pixel_bytes + decoded_bytes(video, result.meta))
        return result


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _media_input(item: ItemPlan, container: str, video: DecodedVideo | None) -> MediaInput:
    return MediaInput(item.kind, item.label, container, video, declared=item.declared, embeds=item.embeds)


def _payload(result: StageResult[Any]) -> TensorRef:
    assert result.payload is not None, "fetch and decode always have a payload"
    return result.payload
