"""Pictures, clips and sounds as the bytes of real files, by real encoders."""

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Literal

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

Codec = Literal["libx264", "libx265", "libvpx-vp9"]
CONTAINER: dict[Codec, str] = {"libx264": "mp4", "libx265": "mp4", "libvpx-vp9": "webm"}
QUICK: dict[Codec, dict[str, str]] = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}


def encode_picture(pixels_HWC: NDArray[np.uint8], kind: Literal["png", "jpeg", "webp"], quality: int = 90) -> bytes:
    """The file's bytes of an RGB picture; `quality` (1 to 100) matters to JPEG and WebP."""
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, kind, quality=quality)
    return file.getvalue()


def encode_sound(samples: NDArray[np.float32], rate_hz: int, kind: Literal["wav", "flac", "ogg", "mp3"]) -> bytes:
    """The file's bytes of a mono sound."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind.upper())
    return file.getvalue()


def encode_clip(
    frames_HWC: Iterable[NDArray[np.uint8]],
    fps: Fraction,
    codec: Codec = "libx264",
    crf: int = 23,
    track: NDArray[np.float32] | None = None,
    track_rate_hz: int = 48000,
) -> bytes:
    """The file's bytes of a clip with even sides, in the codec's usual container, with a mono sound `track` if given.

    MP4 holds AAC, WebM holds Opus. Encoders run on one thread, which makes the same bytes nearly always, not always.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=CONTAINER[codec]) as container:
        video = container.add_stream(codec, rate=fps, options={"crf": str(crf), **QUICK[codec]})
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        audio = None if track is None else container.add_stream(_track_codec(codec), rate=track_rate_hz, layout="mono")
        for number, pixels in enumerate(frames_HWC):
            if number == 0:
                video.height, video.width = pixels.shape[:2]
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        if audio is not None and track is not None:
            _mux_track(container, audio, track, track_rate_hz)
    return file.getvalue()


def _track_codec(codec: Codec) -> str:
    return "libopus" if CONTAINER[codec] == "webm" else "aac"


def _mux_track(
    container: av.container.OutputContainer, stream: av.AudioStream, track: NDArray[np.float32], rate_hz: int
) -> None:
    frame = av.AudioFrame.from_ndarray(track[None], format="fltp", layout="mono")
    frame.sample_rate = rate_hz
    frame.pts = 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
