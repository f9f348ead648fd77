"""Feeding packets to FFmpeg's decoder, and the index of files whose packets don't tell which frame they hold."""

from collections.abc import Iterator, Set
from typing import Any

import numpy as np
from av import VideoFrame

from deployments.core.deadline import Deadline
from deployments.decoder.backend import FrameIndex
from deployments.decoder.demux import VideoFile
from deployments.decoder.limits import Limits
from deployments.decoder.plan import Run
from deployments.media.container import drained, frames_of

DEFAULT_RATE_HZ = 25.0
"""For files that say nothing of time at all; FFmpeg's own default."""

_NEVER_SKIP = frozenset({"libdav1d"})
"""Decoders that look only when they are opened at which frames may be skipped."""


def decode_run(
    video: VideoFile, run: Run, needed: Set[int] | None, deadline: Deadline, decoder: Any = None
) -> Iterator[VideoFrame]:
    """Frames of the packets in `run`, as the decoder gives them. Damaged packets give none.

    needed: numbers of the packets whose frames are wanted; of the others, those that no frame refers to are skipped.
    None: all are wanted. decoder: another one than the stream's own. Raises `StageTimeout` or `WorkCancelled` between
    packets.
    """
    context = decoder or video.stream.codec_context
    context.flush_buffers()
    if context.name in _NEVER_SKIP:
        needed = None
    skipped = None
    for number in range(run.start, run.stop):
        deadline.check()
        skip = "DEFAULT" if needed is None or number in needed else "NONREF"
        if skip != skipped:
            context.skip_frame = skipped = skip
        yield from frames_of(video.packets[number], context)
    yield from drained(context)


def packet_index(video: VideoFile) -> FrameIndex | None:
    """The frames of `video` by its packets' times, at no cost; None when these don't tell."""
    if video.table is None:
        return None
    packets = video.table.display_order()
    pts = video.table.pts[packets]
    return FrameIndex((pts - pts[0]) * video.time_base_s, packets, float(pts[0] * video.time_base_s))


def scan_index(video: VideoFile, limits: Limits, deadline: Deadline) -> FrameIndex:
    """The frames of `video` by decoding all of it. Raises `TooLarge` when that, done twice, is beyond `limits`."""
    limits.accept_work(2 * len(video.packets), *video.coded_size)
    whole = Run(0, len(video.packets))
    ticks = [frame.pts for frame in decode_run(video, whole, None, deadline)]
    if None not in ticks and (np.diff(np.array(ticks, np.float64)) > 0).all():
        times_s = np.array(ticks, np.float64) * video.time_base_s
        starts_s = float(times_s[0]) if ticks else 0.0
        return FrameIndex(times_s - starts_s, None, starts_s)
    rate_hz = float(video.stream.average_rate or DEFAULT_RATE_HZ)
    return FrameIndex(np.arange(len(ticks)) / rate_hz, None, video.first_shown_s)
