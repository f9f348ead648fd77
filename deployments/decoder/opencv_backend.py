"""Decoding with OpenCV: a forward scan from memory that converts only the frames that are wanted.

For machines whose OpenCV is the build that is wanted (hardware codecs, distributions). It decodes every frame up to the
last one wanted, can't read AV1 in its usual wheel, and says little when a file is damaged. Its colours differ: BT.601
for untagged HD, others for HDR. Which frames to take, and every limit, still come from the packets, since OpenCV's own
counts and seeks are not to be believed.
"""

import io
import os

import cv2
import numpy as np
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.decoder.backend import FrameIndex
from deployments.decoder.codec import decode_run
from deployments.decoder.demux import VideoFile
from deployments.decoder.limits import Limits
from deployments.decoder.orientation import Orientation
from deployments.decoder.parts import Helpers
from deployments.decoder.plan import Run
from deployments.decoder.stack import FrameStack
from deployments.errors import UnsupportedCodec

_GUARDS = "protocol_whitelist;none|format_whitelist;mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,flv"
"""FFmpeg options that OpenCV takes from the environment only: no file but the one given is opened, no socket bound."""


class OpencvBackend:
    name = "opencv"

    def __init__(self, threads: int) -> None:
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = _GUARDS
        os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"  # not a word for each damaged packet
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._settings = [cv2.CAP_PROP_N_THREADS, threads]

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
        limits.accept_work(int(wanted[-1]) + 1, *video.coded_size)
        codec = video.stream.codec_context.codec.canonical_name
        first = next(decode_run(video, Run(0, len(video.packets)), None, deadline), None)
        if first is not None and first.interlaced_frame:  # OpenCV 5 delivers noise and reports success
            raise UnsupportedCodec("this server's OpenCV can't convert interlaced video", param=stack.label)
        # OpenCV crashes when the file's last reference is its own: `source` must outlive `capture`.
        source = _Source(video.data.data)
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, self._settings)  # type: ignore[call-overload]
        try:
            if not capture.isOpened():
                raise UnsupportedCodec(f"this server's OpenCV has no decoder for {codec}", param=stack.label)
            if not capture.grab():
                if codec == "av1":  # opened all the same by builds that can't decode it
                    raise UnsupportedCodec("this server's OpenCV can't decode av1", param=stack.label)
                return 0
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # it knows no mirrors
            upright = Orientation(0, False) if first is None else Orientation.of(first)
            return _scan(capture, wanted, stack, upright, deadline)
        finally:
            del capture


class _Source(io.BytesIO):
    """Bytes whose `seek` never raises: a damaged file sends OpenCV to places before its beginning, and an exception out
    of there ends the process."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self.getbuffer().nbytes
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: size}[whence]
        return super().seek(min(max(0, base + offset), size))


def _scan(
    capture: cv2.VideoCapture, wanted: NDArray[np.int64], stack: FrameStack, upright: Orientation, deadline: Deadline
) -> int:
    """Go forward from the first frame, already grabbed. Returns how many were decoded."""
    last, slot_of_number = int(wanted[-1]), {int(number): slot for slot, number in enumerate(wanted)}
    for number in range(last + 1):
        deadline.check()
        if number in slot_of_number:
            converted, bgr = capture.retrieve()
            if converted:
                bgr = upright.apply(bgr)
                height, width = stack.begin(bgr.shape[0], bgr.shape[1], upright.turns * 90)
                if bgr.shape[:2] != (height, width):
                    bgr = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA)
                stack.put(slot_of_number[number], bgr[..., ::-1])
        if number == last or not capture.grab():
            return number + 1
    raise AssertionError("the loop returns")
