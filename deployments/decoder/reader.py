"""One video file from its bytes to the frames and the sound that a model takes."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.backend import Backend, FrameIndex
from deployments.decoder.backlog import VideoWork
from deployments.decoder.card import find_card
from deployments.decoder.codec import packet_index, scan_index
from deployments.decoder.demux import VideoFile, demux
from deployments.decoder.groups import GroupRule, NotInGroups, plan_groups
from deployments.decoder.limits import Limits
from deployments.decoder.parts import Helpers
from deployments.decoder.pyav_backend import PyavBackend
from deployments.decoder.sampling import sample
from deployments.decoder.stack import FrameStack, Stacked
from deployments.errors import BadMedia, MediaLost, TooLarge
from deployments.media.container import VIDEO_CONTAINERS, open_container
from deployments.media.sniff import HEAD_BYTES, sniff
from deployments.types import DecodedPart, DecodedVideo, FrameSampling, GroupTask, PartTask, VideoTask


@dataclass(frozen=True, slots=True)
class VideoRead:
    """What was made of one video."""

    meta: DecodedVideo
    payload: dict[str, NDArray[Any]]
    """See `DecodedVideo`."""
    frames_decoded: int
    """Frames that the codec had to decode for them, here."""


@dataclass(frozen=True, slots=True)
class PartRead:
    """What was made of a part of one."""

    meta: DecodedPart
    payload: dict[str, NDArray[np.uint8]]
    frames_decoded: int


@dataclass(frozen=True, slots=True)
class Grouping:
    """How a video may be delivered in groups."""

    clip: str
    """See `GroupTask`."""
    planned: Callable[[DecodedVideo], None]
    """Told what the video will be, as soon as its first frame is there, where it is delivered so."""
    rule: GroupRule


class FramesMissing(Exception):
    """Not every wanted frame comes out of the packets that promise it; never leaves this room."""


def backend_of(config: DecoderConfig) -> Backend:
    """The way of decoding that `config` names. OpenCV is loaded only here: it needs libraries that PyAV doesn't."""
    if config.backend == "opencv":
        from deployments.decoder.opencv_backend import OpencvBackend

        return OpencvBackend(config.threads)
    return PyavBackend(config.threads, find_card() if config.backend == "cuda" else None)


class VideoReader:
    """Keeps nothing of what it reads: `read` may run on several threads at once."""

    def __init__(self, config: DecoderConfig, backend: Backend | None = None) -> None:
        """`backend`: in place of the one that `config` names."""
        self._config = config
        self._backend = backend or backend_of(config)

    def read(
        self,
        task: VideoTask,
        data: NDArray[np.uint8],
        deadline: Deadline,
        work: VideoWork | None = None,
        helpers: Helpers | None = None,
        grouping: Grouping | None = None,
    ) -> VideoRead:
        """Decode what `task` wants of the file `data`, uint8 of shape (size,); `work` is told what it takes here.
        `helpers`: who may decode parts of it. `grouping`: its first group is enough, where it has several.

        Raises `BadMedia` for bytes that are no video or of which no wanted frame decodes, `BadRequest` for a span
        without frames, `TooLarge` beyond a limit and before its cost is paid, `UnsupportedCodec` without a
        decoder for it, `InternalError` when this machine lacks memory, `StageTimeout` or `WorkCancelled` between
        packets.
        """
        work = work or VideoWork()
        work.began = time.monotonic()
        limits = Limits(self._config, task.label, work)
        with self._opened(task, data, limits, deadline) as video:
            first = None if grouping is None else self._first_group(video, task, limits, deadline, grouping, helpers)
            return first or self.take(video, task, limits, deadline, helpers=helpers)

    def read_part(
        self, task: VideoTask, data: NDArray[np.uint8], deadline: Deadline, part: PartTask, work: VideoWork
    ) -> PartRead:
        """The frames of `part` as they are where the whole video is decoded. Raises as `read` does."""
        work.began = time.monotonic()
        task = dataclasses.replace(task, audio_rate_hz=None)
        limits = Limits(self._config, task.label, work)
        with self._opened(task, data, limits, deadline) as video:
            stack = self._stack(len(part.packets), task, limits, part.clip_frames)
            decoded = self._part_backend().decode_part(video, part, stack, limits, deadline)
            video.packets.close()
        stacked = stack.finish()
        meta = DecodedPart(tuple(int(slot) for slot in stacked.kept), *stack.source_size, stack.rotation_deg)
        return PartRead(meta, stacked.payload, decoded)

    def read_group(
        self,
        task: VideoTask,
        data: NDArray[np.uint8],
        deadline: Deadline,
        group: GroupTask,
        work: VideoWork,
        helpers: Helpers | None = None,
    ) -> PartRead:
        """The patches of `group`. `helpers`: as of `read`. Raises as that does, and `MediaLost` where they are not what
        was promised."""
        work.began = time.monotonic()
        limits = Limits(self._config, task.label, work)
        with self._opened(task, data, limits, deadline) as video:
            read = self._read_group(video, task, limits, deadline, group.part, helpers)
        promised = (group.source_height, group.source_width, group.rotation_deg)
        if (read.meta.source_height, read.meta.source_width, read.meta.rotation_deg) != promised:
            raise MediaLost("the size of a clip's frames changes", param=task.label)
        return read

    def _read_group(
        self,
        video: VideoFile,
        task: VideoTask,
        limits: Limits,
        deadline: Deadline,
        part: PartTask,
        helpers: Helpers | None,
        begun: Callable[[FrameStack], None] = lambda stack: None,
    ) -> PartRead:
        stack = self._stack(len(part.packets), task, limits, part.clip_frames, whole_rows=True)
        stack.begun = lambda: begun(stack)
        decoded = self._part_backend().decode_part(video, part, stack, limits, deadline, helpers)
        video.packets.close()
        if not stack.complete or stack.row_grid is None:
            raise MediaLost("frames of a clip that were to follow could not be decoded", param=task.label)
        meta = DecodedPart(tuple(range(len(part.packets))), *stack.source_size, stack.rotation_deg)
        return PartRead(meta, stack.finish().payload, decoded)

    def _part_backend(self) -> PyavBackend:
        return self._backend if isinstance(self._backend, PyavBackend) else PyavBackend(self._config.threads)

    def _first_group(
        self,
        video: VideoFile,
        task: VideoTask,
        limits: Limits,
        deadline: Deadline,
        grouping: Grouping,
        helpers: Helpers | None,
    ) -> VideoRead | None:
        """None where `video` is to be delivered whole."""
        rule, megapixels = task.patches, video.coded_size[0] * video.coded_size[1] / 1e6
        of_use = rule is not None and self._config.resize and isinstance(self._backend, PyavBackend)
        if not of_use or len(video.packets) * megapixels < 2 * grouping.rule.least_megapixels:
            return None
        assert rule is not None
        index = packet_index(video)
        if index is None or index.packets is None or video.table is None:
            return None
        wanted = self._choose(index, task, limits)
        targets = index.packets[wanted]
        parts = plan_groups(video.table, targets, megapixels, rule.temporal, grouping.rule)
        if len(parts) < 2:
            return None
        packets = sum(stop - start for part in parts for start, stop in part.runs)
        limits.accept_work(packets, *video.coded_size)
        promised: list[DecodedVideo] = []

        def begun(stack: FrameStack) -> None:
            if stack.row_grid is None:
                raise NotInGroups
            taken = _Taken(index, wanted, stack, 0)
            grid = (-(-len(wanted) // rule.temporal), *stack.row_grid)
            everything = Stacked({}, np.arange(len(wanted)), grid)
            values = grid[0] * grid[1] * grid[2] * 3 * rule.temporal * rule.patch**2
            later = tuple(GroupTask(part, grouping.clip, *stack.source_size, stack.rotation_deg) for part in parts[1:])
            said = _describe(taken, everything, self._backend.name, _seconds(limits))
            promised.append(dataclasses.replace(said, payload_bytes=values, later=later))
            grouping.planned(promised[0])

        try:
            read = self._read_group(video, task, limits, deadline, parts[0], helpers, begun)
        except NotInGroups:
            return None
        except MediaLost:
            if promised:
                raise
            return None
        return VideoRead(promised[0], read.payload, read.frames_decoded)

    @contextmanager
    def _opened(
        self, task: VideoTask, data: NDArray[np.uint8], limits: Limits, deadline: Deadline
    ) -> Iterator[VideoFile]:
        sniffed = sniff(data[:HEAD_BYTES].tobytes())
        if sniffed.container not in VIDEO_CONTAINERS:
            raise BadMedia(f"not a video that can be read: its bytes look like {sniffed.looks_like}", param=task.label)
        open_file = functools.partial(
            open_container, data, sniffed.container, task.label, limits.max_source_pixels, deadline
        )
        with open_file() as opened:
            yield demux(opened, open_file, data, task, self._config.threads, limits, deadline)

    def take(
        self,
        video: VideoFile,
        task: VideoTask,
        limits: Limits,
        deadline: Deadline,
        *,
        may_scan: bool = True,
        helpers: Helpers | None = None,
    ) -> VideoRead:
        """What `task` wants of `video`, whose container is open. Raises as `read` does, and `FramesMissing` where
        packets alone don't tell its frames and not `may_scan`.
        """
        index = packet_index(video)
        if index is None and not may_scan:
            raise FramesMissing
        taken = self._take(video, index or scan_index(video, limits, deadline), task, limits, deadline, helpers)
        if not taken.stack.complete and taken.index.packets is not None:
            if not may_scan:
                raise FramesMissing
            taken = self._take_scanned(video, taken, task, limits, deadline)
        video.packets.close()
        audio = video.sound.finish(taken.index.starts_s, task.sampling)
        stacked = taken.stack.finish()
        if not len(stacked.kept):
            raise BadMedia("no frame of the video could be decoded", param=task.label)
        meta = _describe(taken, stacked, self._backend.name, _seconds(limits))
        payload: dict[str, NDArray[Any]] = {**stacked.payload}
        if audio is not None:
            payload["audio"] = audio
        return VideoRead(meta, payload, taken.decoded)

    def _take(
        self,
        video: VideoFile,
        index: FrameIndex,
        task: VideoTask,
        limits: Limits,
        deadline: Deadline,
        helpers: Helpers | None = None,
    ) -> "_Taken":
        wanted = self._choose(index, task, limits)
        stack = self._stack(len(wanted), task, limits)
        decoded = self._backend.decode(video, index, wanted, stack, limits, deadline, helpers)
        return _Taken(index, wanted, stack, decoded)

    def _stack(
        self, slots: int, task: VideoTask, limits: Limits, clip_frames: int | None = None, *, whole_rows: bool = False
    ) -> FrameStack:
        """For so many frames; `clip_frames`: of the clip, where these are a part of it."""
        resize = task.resize if self._config.resize else None
        stack = FrameStack(slots, resize, limits, task.label, task.patches, clip_frames, whole_rows=whole_rows)
        limits.work.share_left = stack.share_missing()
        return stack

    def _take_scanned(
        self, video: VideoFile, planned: "_Taken", task: VideoTask, limits: Limits, deadline: Deadline
    ) -> "_Taken":
        """What packets promise isn't what comes out (packets of fields, a beginning without a keyframe, keyframes that
        are none, damage): chosen anew among the frames that do come out; what there is when a scan costs too much.
        """
        try:
            index = scan_index(video, limits, deadline)
        except TooLarge:
            return planned
        taken = self._take(video, index, task, limits, deadline)
        return dataclasses.replace(taken, decoded=planned.decoded + len(index.times_s) + taken.decoded)

    def _choose(self, index: FrameIndex, task: VideoTask, limits: Limits) -> NDArray[np.int64]:
        if not len(index.times_s):
            raise BadMedia("no frame of the video could be decoded", param=task.label)
        limits.check_duration(float(index.times_s[-1]))
        return sample(index.times_s, within(task.sampling, self._config.max_frames), task.label)


def within(sampling: FrameSampling, max_frames: int) -> FrameSampling:
    """`sampling` under the operator's ceiling."""
    return dataclasses.replace(sampling, max_frames=min(sampling.max_frames, max_frames))


@dataclass(frozen=True, slots=True)
class _Taken:
    """The frames that were wanted of a file, as far as they came out."""

    index: FrameIndex
    wanted: NDArray[np.int64]
    """(slots,) numbers of frames."""
    stack: FrameStack
    decoded: int
    """Frames that the codec decoded for them."""


def _seconds(limits: Limits) -> float:
    """Since the work on it began."""
    return 0.0 if limits.work.began is None else time.monotonic() - limits.work.began


def _describe(read: _Taken, stacked: Stacked, backend: str, decode_s: float) -> DecodedVideo:
    times_s = read.index.times_s
    total, last_s = len(times_s), float(times_s[-1])
    fps = (total - 1) / last_s if last_s > 0 else 1.0
    taken = read.wanted[stacked.kept]
    return DecodedVideo(
        source_fps=fps,
        duration_s=total / fps,
        total_frames=total,
        indices=tuple(int(number) for number in taken),
        timestamps_s=tuple(float(times_s[number]) for number in taken),
        source_height=read.stack.source_size[0],
        source_width=read.stack.source_size[1],
        rotation_deg=read.stack.rotation_deg,
        backend=backend,
        lost_frames=len(read.wanted) - len(taken),
        decode_s=decode_s,
        patch_grid=stacked.patch_grid,
    )
