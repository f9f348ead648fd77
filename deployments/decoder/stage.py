"""The decode stage without Ray: readers behind an owned thread pool, and what is measured of them."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from deployments.autoscaling import StageLoad
from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.decoder.backlog import Backlog, VideoWork
from deployments.decoder.groups import GroupRule
from deployments.decoder.parts import PART_MEGAPIXELS, Helpers, PartSource
from deployments.decoder.picture_list import PictureListReader
from deployments.decoder.reader import Grouping, PartRead, VideoRead, VideoReader
from deployments.decoder.remote import RangeSource, RemoteBytes
from deployments.decoder.sparse import SparseReader
from deployments.observability.metrics import MetricSink
from deployments.types import (
    DecodedVideo,
    GroupTask,
    PartTask,
    Payload,
    RemoteFile,
    StageName,
    VideoTask,
    WholeNeeded,
)

R = TypeVar("R")

STAGE = StageName.VIDEO_DECODE


class DecodeStage:
    """At most `config.workers` videos at once; a cancelled one stops at its next packet and frees its thread then."""

    def __init__(
        self,
        config: DecoderConfig,
        metrics: MetricSink,
        ranges: RangeSource | None = None,
        part_megapixels: float = PART_MEGAPIXELS,
        groups: GroupRule | None = None,
    ) -> None:
        """`ranges`: where `decode_remote` reads from. `part_megapixels`: the least of a video that others may get.
        `groups`: which videos are delivered so."""
        self._timeout_s = config.timeout_s
        self._workers = config.workers
        self._most_parts, self._part_megapixels = config.max_parts, part_megapixels
        self._videos = VideoReader(config)
        self._sparse = SparseReader(config, self._videos)
        self._ranges = ranges
        self._pictures = PictureListReader(config)
        self._executor = StageExecutor(STAGE, config.workers)
        self._backlog = Backlog(config.target_backlog_s, config.workers)
        self._metrics = metrics
        self._groups = groups or GroupRule()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By clip: one that comes in groups takes one thread, as any other."""

    @property
    def running(self) -> int:
        """Videos on a thread now, those of cancelled requests included."""
        return self._executor.running

    async def decode(
        self,
        remaining_s: float,
        task: VideoTask,
        data: NDArray[np.uint8],
        others: PartSource | None = None,
        grouping: Grouping | None = None,
    ) -> VideoRead:
        """A video file's bytes, uint8 of shape (size,). Raises as `VideoReader.read` does, within `remaining_s`.
        `others`: who may decode parts of it. `grouping`: its first group is enough, where it has several."""
        with self._backlog.video() as work, self._helped(others) as helpers:
            return self._counted(await self._run(remaining_s, self._videos.read, task, data, work, helpers, grouping))

    async def decode_early(
        self, remaining_s: float, task: VideoTask, data: NDArray[np.uint8], others: PartSource | None = None
    ) -> AsyncGenerator[DecodedVideo | Payload, None]:
        """The same: what it is as soon as that is known, and its payload, or its first group's."""
        loop, clip = asyncio.get_running_loop(), uuid.uuid4().hex
        told: asyncio.Future[DecodedVideo] = loop.create_future()

        def planned(video: DecodedVideo) -> None:
            loop.call_soon_threadsafe(told.set_result, video)

        async with self._turn(clip):
            grouping = Grouping(clip, planned, self._groups)
            reading = loop.create_task(self.decode(remaining_s, task, data, others, grouping))
            try:
                either: set[asyncio.Future[Any]] = {told, reading}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if told.done():
                    yield told.result()
                read = await reading
            finally:
                reading.cancel()
        if not told.done():
            yield read.meta
        yield read.payload

    async def decode_group(
        self,
        remaining_s: float,
        task: VideoTask,
        group: GroupTask,
        data: NDArray[np.uint8],
        others: PartSource | None = None,
    ) -> dict[str, NDArray[np.uint8]]:
        """{"patches"} of a later group. Raises as `VideoReader.read_group` does."""
        deadline, read_group = Deadline(remaining_s, STAGE), self._videos.read_group
        with self._backlog.video() as work, self._helped(others) as helpers:
            async with self._turn(group.clip):
                read = await self._run(deadline.remaining_s(), read_group, task, data, group, work, helpers)
        self._metrics.count("sluice_frames_delivered", len(read.meta.kept))
        self._count_work(read.frames_decoded, read.meta.source_height, read.meta.source_width)
        return read.payload

    @contextmanager
    def _helped(self, others: PartSource | None) -> Iterator[Helpers | None]:
        """What a thread needs to give parts away; what came of it is counted."""
        if others is None or self._most_parts <= 1:
            yield None
            return
        helpers = Helpers(others, asyncio.get_running_loop(), self._most_parts - 1, self._part_megapixels)
        try:
            yield helpers
        finally:
            self._metrics.count("sluice_video_parts", helpers.decoded, outcome="decoded")
            self._metrics.count("sluice_video_parts", helpers.returned, outcome="returned")

    def _turn(self, clip: str) -> asyncio.Lock:
        """To be held while a group of it is decoded."""
        turn = self._turns.get(clip)
        if turn is None:
            turn = self._turns[clip] = asyncio.Lock()
        return turn

    @contextmanager
    def place_for_part(self) -> Iterator[VideoWork | None]:
        """Kept while the block lasts; None where no thread is free. A part that has it never waits for one: two
        decoders that wait for parts of each other would wait for ever."""
        if max(self._backlog.videos, self._executor.running) >= self._workers:
            yield None
            return
        with self._backlog.video() as work:
            yield work

    async def decode_part(
        self, remaining_s: float, task: VideoTask, part: PartTask, data: NDArray[np.uint8], work: VideoWork
    ) -> PartRead:
        """For another decoder; `work`: of `place_for_part`. Raises as `VideoReader.read` does."""
        read = await self._run(remaining_s, self._videos.read_part, task, data, part, work)
        self._count_work(read.frames_decoded, read.meta.source_height, read.meta.source_width)
        return read

    async def decode_remote(
        self, remaining_s: float, task: VideoTask, file: RemoteFile, head: NDArray[np.uint8]
    ) -> VideoRead | WholeNeeded:
        """A file that stays with its host; `head`: its first bytes. Raises as `SparseReader.read` does."""
        if self._ranges is None:
            return WholeNeeded("this replica has no way to read ranges")
        loop, source = asyncio.get_running_loop(), self._ranges

        def opened(deadline: Deadline) -> RemoteBytes:
            return RemoteBytes(source, loop, file, deadline, task.label)

        with self._backlog.video() as work:
            done = await self._run(remaining_s, self._sparse.read, task, opened, head, work)
        return self._counted(done) if isinstance(done, VideoRead) else done

    async def decode_pictures(
        self, remaining_s: float, task: VideoTask, pictures: tuple[NDArray[np.uint8], ...]
    ) -> VideoRead:
        """The bytes of picture files in order. Raises as `PictureListReader.read` does, within `remaining_s`."""
        with self._backlog.video():
            return self._counted(await self._run(remaining_s, self._pictures.read, task, pictures))

    def load(self) -> StageLoad | None:
        """What this replica has to do, for autoscaling. Lists of pictures count as much as the videos before them."""
        load = self._backlog.load()
        self._metrics.gauge("sluice_waiting_megapixels", self._backlog.megapixels)
        self._metrics.gauge("sluice_load", load.in_hand if load else 0.0)
        return load

    def check_health(self) -> None:
        """Raise `InternalError` when a thread doesn't stop although it had to."""
        self._executor.check_health()

    def close(self) -> None:
        """Tell running decodes to stop, take no more."""
        self._executor.close()

    async def _run(self, remaining_s: float, read: Callable[..., R], task: VideoTask, source: Any, *more: Any) -> R:
        deadline = Deadline(min(remaining_s, self._timeout_s), STAGE)
        try:
            return await self._executor.run(deadline, self._measured, read, task, source, deadline, *more)
        finally:
            self._metrics.gauge("sluice_threads_busy", self._executor.running, stage=STAGE)

    def _counted(self, done: VideoRead) -> VideoRead:
        meta = done.meta
        if not meta.later:
            payload_bytes = sum(array.nbytes for array in done.payload.values())
            done = replace(done, meta=replace(meta, payload_bytes=payload_bytes))
        later = sum(len(group.part.packets) for group in meta.later)
        self._metrics.count("sluice_frames_delivered", len(meta.indices) - later)
        self._count_work(done.frames_decoded, meta.source_height, meta.source_width)
        return done

    def _count_work(self, frames: int, height: int, width: int) -> None:
        self._metrics.count("sluice_frames_decoded", frames)
        self._metrics.count("sluice_decoded_megapixels", frames * height * width / 1e6)

    def _measured(self, read: Callable[..., R], *args: Any) -> R:
        self._metrics.gauge("sluice_threads_busy", self._executor.running, stage=STAGE)
        return read(*args)
