"""The decode stage without Ray: readers behind an owned thread pool, and what is measured of them."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deployments.autoscaling import StageLoad
from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.decoder.backlog import Backlog
from deployments.decoder.picture_list import PictureListReader
from deployments.decoder.reader import VideoRead, VideoReader
from deployments.decoder.remote import RangeSource, RemoteBytes
from deployments.decoder.sparse import SparseReader
from deployments.observability.metrics import MetricSink
from deployments.types import RemoteFile, StageName, VideoTask, WholeNeeded

R = TypeVar("R", VideoRead, VideoRead | WholeNeeded)

STAGE = StageName.VIDEO_DECODE


class DecodeStage:
    """At most `config.workers` videos at once; a cancelled one stops at its next packet and frees its thread then."""

    def __init__(self, config: DecoderConfig, metrics: MetricSink, ranges: RangeSource | None = None) -> None:
        """`ranges`: where `decode_remote` reads from."""
        self._timeout_s = config.timeout_s
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

    async def decode(self, remaining_s: float, task: VideoTask, data: NDArray[np.uint8]) -> VideoRead:
        """A video file's bytes, uint8 of shape (size,). Raises as `VideoReader.read` does, within `remaining_s`."""
        with self._backlog.video() as work:
            return await self._run(remaining_s, self._videos.read, task, data, work)

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
            return await self._run(remaining_s, self._sparse.read, task, opened, head, work)

    async def decode_pictures(
        self, remaining_s: float, task: VideoTask, pictures: tuple[NDArray[np.uint8], ...]
    ) -> VideoRead:
        """The bytes of picture files in order. Raises as `PictureListReader.read` does, within `remaining_s`."""
        with self._backlog.video():
            return await self._run(remaining_s, self._pictures.read, task, pictures)

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
            done = await self._executor.run(deadline, self._measured, read, task, source, deadline, *more)
        finally:
            self._metrics.gauge("sluice_threads_busy", self._executor.running, stage=STAGE)
        return self._counted(done) if isinstance(done, VideoRead) else done

    def _counted(self, done: VideoRead) -> VideoRead:
        payload_bytes = sum(array.nbytes for array in done.payload.values())
        done = replace(done, meta=replace(done.meta, payload_bytes=payload_bytes))
        meta = done.meta
        self._metrics.count("sluice_frames_delivered", len(meta.indices))
        self._metrics.count("sluice_frames_decoded", done.frames_decoded)
        megapixels = done.frames_decoded * meta.source_height * meta.source_width / 1e6
        self._metrics.count("sluice_decoded_megapixels", megapixels)
        return done

    def _measured(self, read: Callable[..., R], *args: Any) -> R:
        self._metrics.gauge("sluice_threads_busy", self._executor.running, stage=STAGE)
        return read(*args)
