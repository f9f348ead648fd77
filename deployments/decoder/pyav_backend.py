"""Decoding with FFmpeg through PyAV: only the packets that the wanted frames lean on."""

from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from typing import Any

import numpy as np
from av import VideoFrame
from av.error import FFmpegError
from av.video.plane import VideoPlane
from av.video.reformatter import Colorspace, VideoReformatter
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.decoder.backend import FrameIndex
from deployments.decoder.card import Card, planar
from deployments.decoder.codec import decode_run
from deployments.decoder.demux import VideoFile
from deployments.decoder.limits import Limits
from deployments.decoder.orientation import Orientation
from deployments.decoder.parts import Helpers, SharedRuns
from deployments.decoder.plan import Run, plan_runs
from deployments.decoder.stack import FrameStack
from deployments.types import PartTask

_AREA_FULL_CHROMA = 0x2020
"""swscale's AREA | FULL_CHR_H_INT. Without the second, scaled frames come out two levels too dark."""

_UNSPECIFIED = 2
"""FFmpeg's AVCOL_SPC_UNSPECIFIED."""
_HD_LINES = 720


class PyavBackend:
    def __init__(self, threads: int, card: Card | None = None) -> None:
        """`card`: whose decoder is asked first."""
        self.name = "pyav" if card is None else "cuda"
        self._threads = threads
        self._card = card

    def decode(
        self,
        video: VideoFile,
        index: FrameIndex,
        wanted: NDArray[np.int64],
        stack: FrameStack,
        limits: Limits,
        deadline: Deadline,
        helpers: Helpers | None = None,
    ) -> int:
        """See `backend.Backend.decode`."""
        writer = _FrameWriter(stack, self._threads)
        if index.packets is None:
            return _keep_by_number(video, wanted, writer, deadline)
        assert video.table is not None
        targets = index.packets[wanted]
        runs = plan_runs(video.table, targets)
        limits.accept_work(sum(map(len, runs)), *video.coded_size)
        video.packets.expect(runs)
        if helpers is None:
            return self._keep(video, runs, targets, writer, deadline)
        return self._keep_shared(video, runs, targets, writer, limits, deadline, helpers, len(targets))

    def decode_part(
        self,
        video: VideoFile,
        part: PartTask,
        stack: FrameStack,
        limits: Limits,
        deadline: Deadline,
        helpers: Helpers | None = None,
    ) -> int:
        """Put the frames of `part` into its slots of `stack`; returns how many the codec decoded here."""
        runs, targets = [Run(*run) for run in part.runs], np.array(part.packets)
        limits.accept_work(sum(map(len, runs)), *video.coded_size)
        writer = _FrameWriter(stack, self._threads)
        if helpers is None:
            return self._keep(video, runs, targets, writer, deadline)
        return self._keep_shared(video, runs, targets, writer, limits, deadline, helpers, part.clip_frames)

    def _keep_shared(
        self,
        video: VideoFile,
        runs: Sequence[Run],
        targets: NDArray[np.int64],
        writer: "_FrameWriter",
        limits: Limits,
        deadline: Deadline,
        helpers: Helpers,
        clip_frames: int,
    ) -> int:
        shared = SharedRuns(helpers, runs, targets, writer.stack, limits, video.coded_size, deadline, clip_frames)
        with closing(shared) as here:
            return self._keep(video, here, targets, writer, deadline)

    def _keep(
        self,
        video: VideoFile,
        runs: Iterable[Run],
        targets: NDArray[np.int64],
        writer: "_FrameWriter",
        deadline: Deadline,
    ) -> int:
        """As `_keep_by_time`, on the card as far as it goes."""
        if self._card is None:
            return _keep_by_time(video, runs, targets, writer, deadline)
        assert video.table is not None
        decoded = 0
        with self._card.decoder_of(video) as decoder:
            if decoder is not None:
                with suppress(FFmpegError):  # it has no memory left
                    decoded = _keep_by_time(video, runs, targets, writer, deadline, decoder)
                if writer.stack.complete:
                    return decoded
                runs = plan_runs(video.table, targets[writer.stack.missing])
                video.packets.expect(runs)
        return decoded + _keep_by_time(video, runs, targets, writer, deadline)


def _keep_by_time(
    video: VideoFile,
    runs: Iterable[Run],
    targets: NDArray[np.int64],
    writer: "_FrameWriter",
    deadline: Deadline,
    decoder: Any = None,
) -> int:
    """Decode `runs` and keep the frames of the packets `targets` that are still missing; returns how many came out."""
    assert video.table is not None
    slot_of_pts = {int(video.table.pts[targets[slot]]): int(slot) for slot in writer.stack.missing}
    needed = {int(target) for target in targets}
    decoded = 0
    for run in runs:
        for frame in decode_run(video, run, needed, deadline, decoder):
            decoded += 1
            if (slot := slot_of_pts.pop(frame.pts, None)) is not None:
                writer.write(slot, frame)
    return decoded


def _keep_by_number(video: VideoFile, wanted: NDArray[np.int64], writer: "_FrameWriter", deadline: Deadline) -> int:
    """Decode from the start and keep the frames by their number in display order; returns how many came out."""
    slot_of_number = {int(number): slot for slot, number in enumerate(wanted)}
    decoded = 0
    for number, frame in enumerate(decode_run(video, Run(0, len(video.packets)), None, deadline)):
        decoded += 1
        if (slot := slot_of_number.pop(number, None)) is not None:
            writer.write(slot, frame)
        if not slot_of_number:
            break
    return decoded


class _FrameWriter:
    """Turns decoded frames into upright RGB of the delivered size, in their places of a stack."""

    def __init__(self, stack: FrameStack, threads: int) -> None:
        self.stack = stack
        self._threads = threads
        self._reformatter, self._layouts = VideoReformatter(), VideoReformatter()

    def write(self, slot: int, frame: VideoFrame) -> None:
        upright = Orientation.of(frame)
        frame = planar(frame, self._layouts)
        displayed = (frame.width, frame.height) if upright.sideways else (frame.height, frame.width)
        size = self.stack.begin(*displayed, upright.turns * 90)
        height, width = size[::-1] if upright.sideways else size
        scaled = (height, width) != (frame.height, frame.width)
        # swscale scales into planes three times as fast as into packed pixels, to the same values. Without scaling it
        # computes planes with fewer bits, and leaves the last columns of some widths as the memory was.
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="gbrp" if scaled else "rgb24",
            interpolation=_AREA_FULL_CHROMA if scaled else None,
            src_colorspace=Colorspace.ITU709 if _is_untagged_hd(frame) else None,
            threads=self._threads,
        )
        if scaled:
            green, blue, red = (upright.apply(_plane(plane, height, width)) for plane in rgb.planes)
            self.stack.put_planes(slot, (red, green, blue))
        else:
            packed = _plane(rgb.planes[0], height, 3 * width).reshape(height, width, 3)
            self.stack.put(slot, upright.apply(packed))


def _is_untagged_hd(frame: VideoFrame) -> bool:
    """Frames whose colours no tag explains: browsers take BT.709 from 720 lines on, where FFmpeg takes BT.601."""
    return int(frame.colorspace) == _UNSPECIFIED and frame.height >= _HD_LINES


def _plane(plane: VideoPlane, height: int, line_bytes: int) -> NDArray[np.uint8]:
    """(H, bytes of a line), a view; valid as long as its frame."""
    lines: NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return lines[:height, :line_bytes]
