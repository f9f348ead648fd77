"""A video file taken apart: its packets, when each is shown, and its sound, in one pass over the container."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.decoder.limits import Limits
from deployments.decoder.packets import HELD_BYTES, Packets
from deployments.decoder.plan import PacketTable, Run
from deployments.errors import BadMedia
from deployments.media.container import (
    check_clear,
    check_clear_track,
    check_decoder,
    frames_of,
    packets_of,
    prepare_decoder,
)
from deployments.media.mono import MonoTrack, check_duration
from deployments.types import FrameSampling, VideoTask

Reopen = Callable[..., AbstractContextManager[InputContainer]]


class NumberedPackets(Protocol):
    """Of one video stream; those of a remote file are there once they have been expected."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Any: ...

    def expect(self, runs: Sequence[Run]) -> None:
        """These will be asked for, in this order."""
        ...

    def close(self) -> None:
        """Let go of what they are read from."""
        ...


@dataclass(frozen=True, slots=True)
class VideoFile:
    """What is known of a file before any of its frames is decoded; valid while its container is open."""

    data: NDArray[np.uint8]
    """(bytes,) the file itself."""
    stream: Any
    """PyAV's video stream, its decoder prepared and not yet used."""
    packets: "NumberedPackets"
    """Of the video stream, in decode order."""
    table: PacketTable | None
    """None when frames can't be told by their packets' times: those are missing, made up, or shared."""
    sound: "Sound"
    """The audio track beside it."""
    first_shown_s: float
    """The earliest presentation time of a packet, by the file's own clock; 0.0 when there is none."""
    reopen: Reopen
    """Opens the container once more; `hwaccel=` what its decoders may use of a device."""

    @property
    def time_base_s(self) -> float:
        """Seconds of a tick of the video stream's clock."""
        return float(self.stream.time_base)

    @property
    def coded_size(self) -> tuple[int, int]:
        """(height, width) before rotation."""
        return self.stream.height, self.stream.width


def demux(
    opened: InputContainer,
    reopen: Reopen,
    data: NDArray[np.uint8],
    task: VideoTask,
    threads: int,
    limits: Limits,
    deadline: Deadline,
    held_bytes: int = HELD_BYTES,
) -> VideoFile:
    """Read the packets of `opened`, the open container of `data`; `reopen` opens it once more.

    Raises `BadMedia` when there is no video in it, `TooLarge` beyond `limits`, `UnsupportedCodec` without a decoder,
    `StageTimeout` or `WorkCancelled` between packets.
    """
    stream = ready_stream(opened, data, task.label, threads, limits)
    sound = Sound(opened, data, task, limits)
    packets = Packets(stream, reopen, task.label, deadline, held_bytes)
    for packet in packets_of(opened, stream, *sound.streams):
        deadline.check()
        if packet.stream is not stream:
            sound.take(packet)
        elif packet.size:
            check_clear(packet, task.label)
            packets.append(packet)
            limits.check_packets(len(packets), len(data))
    deadline.check()
    if not len(packets):
        raise BadMedia("the file holds no video frames", param=task.label)
    first_shown_s = float((packets.first_pts or 0) * stream.time_base)
    return VideoFile(data, stream, packets, _table(packets, stream, opened), sound, first_shown_s, reopen)


def ready_stream(opened: InputContainer, data: NDArray[np.uint8], label: str, threads: int, limits: Limits) -> Any:
    """The video track of `opened`, its decoder prepared. Raises as `demux` does."""
    stream = _video_stream(opened, data, label)
    limits.check_source(stream.height, stream.width)
    prepare_decoder(stream, threads)
    stream.codec_context.options = {"max_pixels": str(limits.max_source_pixels)}
    return stream


def _video_stream(opened: InputContainer, data: NDArray[np.uint8], label: str) -> Any:
    for stream in opened.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            check_clear_track(opened, stream, data, label)
            check_decoder(stream, data, label)
            if not (stream.width and stream.height):
                raise BadMedia("the file's video track has no size", param=label)
            return stream
    raise BadMedia("the file holds no video", param=label)


def _table(packets: Packets, stream: Any, opened: InputContainer) -> PacketTable | None:
    if opened.format.name == "avi" and stream.codec_context.has_b_frames:
        return None  # AVI has no presentation times; FFmpeg makes them up from the order in the file
    table = packets.table()
    if table is None:
        return None
    if opened.format.name == "mpegts" and table.is_key.any():
        table.is_hidden[: int(np.argmax(table.is_key))] = True  # of a broadcast that was tuned into
    return table if table.has_distinct_times() and not table.is_hidden.all() else None


class Sound:
    """The first audio track, decoded as its packets come by; nothing when it is not wanted or not there."""

    def __init__(self, opened: InputContainer, data: NDArray[np.uint8], task: VideoTask, limits: Limits) -> None:
        self._wanted = task.audio_rate_hz is not None
        self._rate_hz = task.audio_rate_hz or 1
        self._label = task.label
        self._max_s = limits.max_audio_s
        self._track = MonoTrack(self._rate_hz, self._max_s, self._label)
        self._starts_s: float | None = None
        self.streams = opened.streams.audio[:1] if self._wanted else ()
        for stream in self.streams:
            check_clear_track(opened, stream, data, task.label)
            check_decoder(stream, data, task.label)
            prepare_decoder(stream, 1)

    def take(self, packet: Any) -> None:
        for frame in frames_of(packet):
            if self._starts_s is None and frame.time is not None:
                self._starts_s = frame.time
            self._track.add(frame)

    def finish(self, video_starts_s: float, span: FrameSampling) -> NDArray[np.float32] | None:
        """The track from the first frame, or the span's beginning, on: with silence before it, or its beginning cut."""
        if not self._wanted:
            return None
        samples = self._track.finish()
        if not len(samples) or self._starts_s is None:
            return samples
        silent_s = self._starts_s - video_starts_s - (span.start_s or 0.0)
        check_duration(silent_s + len(samples) / self._rate_hz, self._max_s, self._label)
        silent = round(silent_s * self._rate_hz)
        aligned = samples[-silent:] if silent < 0 else np.concatenate([np.zeros(silent, np.float32), samples])
        length = None if span.end_s is None else round((span.end_s - (span.start_s or 0.0)) * self._rate_hz)
        return aligned[:length]
