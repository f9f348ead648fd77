"""Files back to arrays, by the simplest means, for the evaluation that needs no server.

Shape legend: T frames, H height, W width, C channels (RGB).
"""

import io
from dataclasses import dataclass

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray
from PIL import Image

from deployments.demo.evaluation.cases import MediaFile

SOUND_RATE_HZ = 16000


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the processor is given of one file."""

    frames_THWC: NDArray[np.uint8] | None = None
    """Of a picture (T = 1) or of a clip."""
    fps: float | None = None
    """Frames taken per second of a clip; None for pictures and sounds."""
    samples: NDArray[np.float32] | None = None
    """Mono, at SOUND_RATE_HZ."""


def decode(file: MediaFile, num_frames: int, with_sound: bool) -> Decoded:
    """Of clips `num_frames` frames, evenly from the first to the last, and the sound track if it is wanted."""
    if file.part == "image":
        return Decoded(frames_THWC=np.asarray(Image.open(io.BytesIO(file.data)).convert("RGB"))[None])
    if file.part == "audio":
        return Decoded(samples=_sound(file.data))
    with av.open(io.BytesIO(file.data)) as container:
        frames = list(container.decode(video=0))
    taken = [frames[place] for place in np.round(np.linspace(0, len(frames) - 1, num_frames)).astype(int)]
    times = [float(frame.time or 0) for frame in taken]
    return Decoded(
        np.stack([frame.to_ndarray(format="rgb24") for frame in taken]),
        (num_frames - 1) / (times[-1] - times[0]),
        _sound(file.data) if with_sound else None,
    )


def _sound(data: bytes) -> NDArray[np.float32]:
    resampler = AudioResampler(format="fltp", layout="mono", rate=SOUND_RATE_HZ)
    with av.open(io.BytesIO(data)) as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    frames += [piece for piece in resampler.resample(None) if piece is not None]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])
