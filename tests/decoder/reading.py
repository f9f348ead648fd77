"""Short ways to read a video, and the full sequential decode that everything is held against."""

import io

import av
import numpy as np
from numpy.typing import NDArray

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.reader import VideoRead, VideoReader
from deployments.types import FrameSampling, ResizeRule, VideoTask

LABEL = "messages[0].content[1]"


def task(
    num_frames: int | None = 8,
    *,
    fps: float | None = None,
    max_frames: int = 1000,
    min_frames: int = 1,
    start_s: float | None = None,
    end_s: float | None = None,
    resize: ResizeRule | None = None,
    audio_rate_hz: int | None = None,
) -> VideoTask:
    count = None if fps is not None else num_frames
    sampling = FrameSampling(count, fps, max_frames, min_frames, start_s, end_s)
    return VideoTask(LABEL, sampling, resize, audio_rate_hz)


def read(
    data: bytes, what: VideoTask | None = None, config: DecoderConfig | None = None, deadline: Deadline | None = None
) -> VideoRead:
    """`data` read by a fresh reader; by default eight frames by PyAV within half a minute."""
    reader = VideoReader(config or DecoderConfig())
    return reader.read(what or task(), np.frombuffer(data, np.uint8), deadline or Deadline(30, "decode"))


def decode_all(data: bytes) -> list[NDArray[np.uint8]]:
    """Every frame of the file as a player shows them, upright RGB."""
    with av.open(io.BytesIO(data)) as opened:
        frames = [(frame.to_ndarray(format="rgb24"), frame.rotation) for frame in opened.decode(video=0)]
    return [np.rot90(pixels, round(rotation / 90) % 4) for pixels, rotation in frames]
