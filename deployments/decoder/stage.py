"""The decode stage without Ray: readers behind an owned thread pool, and what is measured of them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deployments.autoscaling import StageLoad
from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.decoder.backlog import Backlog, VideoWork
from deployments.decoder.parts import PART_MEGAPIXELS, Helpers, PartSource
from deployments.decoder.picture_list import PictureListReader
from deployments.decoder.reader import PartRead, VideoRead, VideoReader
from deployments.decoder.remote import RangeSource, RemoteBytes
from deployments.decoder.sparse import SparseReader
from deployments.observability.metrics import MetricSink
from deployments.types import PartTask, RemoteFile, StageName, VideoTask, WholeNeeded

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
    ) -> None:
        """`ranges`: where `decode_remote` reads from. `part_megapixels`: the least of a video that others may get."""
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

    @property
    def running(self) -> int:
        """Videos on a thread now, those of cancelled requests included."""
        return self._executor.running

    async def decode(
        self, remaining_s: float, task: VideoTask, data: NDArray[np.uint8], others: PartSource | None = None
    ) -> VideoRead:
        """A video file's bytes, uint8 of shape (size,). Raises as `VideoReader.read` does, within `remaining_s`.
        `others`: who may decode parts of it."""
        helpers = None
        if others is not None and self._most_parts > 1:
            loop = asyncio.get_running_loop()
            helpers = Helpers(others, loop, self._most_parts - 1, self._part_megapixels)
        with self._backlog.video() as work:
            try:
                return self._counted(await self._run(remaining_s, self._videos.read, task, data, work, helpers))
            finally:
                if helpers is not None:
                    self._metrics.count("sluice_video_parts", helpers.decoded, outcome="decoded")
                    self._metrics.count("sluice_video_parts", helpers.returned, outcome="returned")

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
        payload_bytes = sum(array.nbytes for array in done.payload.values())
        done = replace(done, meta=replace(done.meta, payload_bytes=payload_bytes))
        meta = done.meta
        self._metrics.count("sluice_frames_delivered", len(meta.indices))
        self._count_work(done.frames_decoded, meta.source_height, meta.source_width)
        return done

    def _count_work(self, frames: int, height: int, width: int) -> None:
        self._metrics.count("sluice_frames_decoded", frames)
        self._metrics.count("sluice_decoded_megapixels", frames * height * width / 1e6)

    def _measured(self, read: Callable[..., R], *args: Any) -> R:
        self._metrics.gauge("sluice_threads_busy", self._executor.running, stage=STAGE)
        return read(*args)
