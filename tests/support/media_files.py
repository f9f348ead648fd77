"""Real media made by real encoders: videos, pictures and sounds as bytes, small enough to be made in a test.

Each video frame carries its number as a grid of light and dark cells, so that a decoded frame tells which one it is,
also after resizing and lossy coding, and not when it is upside down or its red and blue are swapped.

    from tests.support.media_files import make_picture, make_sound, make_video, read_numbers
"""

import functools
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import ParamSpec

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

ROWS, COLUMNS = 3, 4
MAX_FRAMES = 2 ** (ROWS * COLUMNS)
_DARK, _LIGHT = np.array((30, 40, 90), np.float32), np.array((220, 180, 60), np.float32)
_TIME_BASE = Fraction(1, 90_000)
_MOST_KEPT = 200
_LARGEST_KEPT_BYTES = 2**20

P = ParamSpec("P")


def _kept(make: Callable[P, bytes]) -> Callable[P, bytes]:
    """`make`, which encodes the same file once in a session: many tests take the same ones."""
    made: dict[bytes, bytes] = {}

    @functools.wraps(make)
    def made_once(*args: P.args, **kwargs: P.kwargs) -> bytes:
        key = pickle.dumps((args, sorted(kwargs.items())))
        data = made.get(key) or make(*args, **kwargs)
        if len(data) <= _LARGEST_KEPT_BYTES and len(made) < _MOST_KEPT:
            made[key] = data
        return data

    return made_once


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def numbered_frame(number: int, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """(height, width, 3) RGB: `number` in cells, with a texture on them that moves from frame to frame."""
    bits = [number >> bit & 1 for bit in range(ROWS * COLUMNS)]
    y, x = np.arange(height), np.arange(width)
    cells = np.array(bits).reshape(ROWS, COLUMNS)[y[:, None] * ROWS // height, x[None, :] * COLUMNS // width]
    texture = 14 * np.sin((x[None, :] + 3 * number) / 5) * np.cos((y[:, None] - 2 * number) / 7)
    frame = np.where(cells[..., None], _LIGHT, _DARK) + texture[..., None]
    return np.clip(frame, 0, 255).astype(np.uint8)


def read_number(frame_HWC: NDArray[np.uint8]) -> int:
    """The number that `numbered_frame` wrote, read from the middles of the cells."""
    height, width, _ = frame_HWC.shape
    number = 0
    for bit in range(ROWS * COLUMNS):
        row, column = divmod(bit, COLUMNS)
        y, x = int((row + 0.5) * height / ROWS), int((column + 0.5) * width / COLUMNS)
        patch = frame_HWC[y - height // 12 : y + height // 12, x - width // 16 : x + width // 16].astype(np.float32)
        red, _, blue = patch.reshape(-1, 3).mean(axis=0)
        number |= int(red - blue > 50) << bit
    return number


def read_numbers(frames_THWC: NDArray[np.uint8]) -> list[int]:
    """`read_number` of each frame."""
    return [read_number(frame) for frame in frames_THWC]


# ── videos ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Pipe(io.RawIOBase):
    """A sink that can't seek, so that a muxer can't come back to write counts and durations into its header."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.data += data
        return len(data)


@_kept
def make_video(
    frames: int = 30,
    *,
    codec: str = "libx264",
    container: str = "mp4",
    width: int = 128,
    height: int = 96,
    fps: float = 30.0,
    times_s: Sequence[float] | None = None,
    gop: int = 12,
    b_frames: int = 2,
    open_gop: bool = False,
    rotation: int = 0,
    hidden: int = 0,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    muxer_options: Mapping[str, str] | None = None,
    seekable: bool = True,
    tones_hz: Sequence[float] = (),
    audio_codec: str = "aac",
    audio_rate: int = 44_100,
    audio_s: float | None = None,
) -> bytes:
    """A video file of numbered frames 0, 1, 2, ...

    container: a muxer's name: `mp4`, `mov`, `matroska`, `webm`, `mpegts`, `avi`, `flv`.
    times_s: presentation times, ascending, for a variable frame rate; default: 1/fps apart.
    rotation: degrees clockwise that a player must turn the frames by.
    hidden: this many leading frames lie before the start of an edit list (mp4, mov): players don't show them.
    seekable: False writes as into a pipe: no duration, no frame count in the header.
    tones_hz: one sine per channel of an audio track; empty: no audio track.
    """
    sink = io.BytesIO() if seekable else _Pipe()
    with av.open(sink, "w", format=container, options=dict(muxer_options or {})) as output:
        video = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        video.codec_context.time_base = _time_base(codec, container, fps)
        video.codec_context.gop_size = gop
        video.codec_context.thread_count = 1
        video.options = _encoder_options(codec, gop, b_frames, open_gop) | dict(options or {})
        if codec in ("mpeg4", "mpeg2video"):
            video.codec_context.max_b_frames = b_frames
        if rotation:
            video.set_display_rotation(-rotation)
        times = list(times_s) if times_s is not None else [(i - hidden) / fps for i in range(frames)]
        audio = None
        if tones_hz:
            audio = output.add_stream(audio_codec, rate=audio_rate, layout="mono" if len(tones_hz) == 1 else "stereo")
        packets: list[av.Packet] = []
        for number, time_s in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, height, width), format="rgb24")
            frame.time_base = video.codec_context.time_base
            frame.pts = round(time_s / frame.time_base)
            packets += video.encode(frame)
        packets += video.encode()
        if audio is not None:
            packets += _encode_tones(audio, tones_hz, audio_s if audio_s is not None else max(times) + 1 / fps)
        output.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return bytes(sink.data) if isinstance(sink, _Pipe) else sink.getvalue()


def _time_base(codec: str, container: str, fps: float) -> Fraction:
    # MPEG-4 part 2 has 16 bits for the denominator; AVI has a frame for each tick.
    coarse = codec in ("mpeg4", "mpeg2video") or container == "avi"
    return 1 / Fraction(fps).limit_denominator(1001) if coarse else _TIME_BASE


def _encoder_options(codec: str, gop: int, b_frames: int, open_gop: bool) -> dict[str, str]:
    quiet_gop = f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop={int(open_gop)}:bframes={b_frames}"
    if codec == "libx264":
        return {"preset": "ultrafast", "crf": "18", "x264-params": quiet_gop + ":b-adapt=0:threads=1"}
    if codec == "libx265":
        return {"preset": "ultrafast", "crf": "18", "x265-params": quiet_gop + ":log-level=none:pools=1"}
    if codec == "libsvtav1":
        return {"preset": "12", "crf": "20", "svtav1-params": f"keyint={gop}:lp=1"}
    if codec in ("libvpx", "libvpx-vp9"):
        return {
            "deadline": "realtime",
            "cpu-used": "8",
            "crf": "12",
            "b": "2M",
            "auto-alt-ref": "1",
            "lag-in-frames": "8",
        }
    return {"b": "4M"}


# ── sounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def tones(tones_hz: Sequence[float], seconds: float, rate: int) -> NDArray[np.float32]:
    """(samples, channels) of sines with amplitude 0.5."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * time[:, None] * np.array(tones_hz))).astype(np.float32)


def loudest_hz(samples: NDArray[np.float32], rate: int) -> float:
    """The frequency with the most energy in mono `samples`."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


@_kept
def make_sound(
    container: str = "wav", *, seconds: float = 1.0, rate: int = 44_100, tones_hz: Sequence[float] = (440.0,)
) -> bytes:
    """A sound file: `wav flac ogg mp3` by libsndfile; `aac m4a opus webm mpegts` by FFmpeg; one sine per channel."""
    sink = io.BytesIO()
    if container in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(sink, tones(tones_hz, seconds, rate), rate, format=container.upper())
        return sink.getvalue()
    muxer, codec = {
        "aac": ("adts", "aac"),
        "m4a": ("ipod", "aac"),
        "opus": ("ogg", "libopus"),
        "webm": ("webm", "libopus"),
        "mpegts": ("mpegts", "aac"),
    }[container]
    with av.open(sink, "w", format=muxer) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono" if len(tones_hz) == 1 else "stereo")
        output.mux(_encode_tones(stream, tones_hz, seconds))
    return sink.getvalue()


@_kept
def make_track(
    muxer: str, codec: str, *, seconds: float = 1.0, rate: int = 44_100, tones_hz: Sequence[float] = (440.0,)
) -> bytes:
    """A sound file by FFmpeg's names: whatever it can encode, in whatever it can write."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=muxer) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono" if len(tones_hz) == 1 else "stereo")
        output.mux(_encode_tones(stream, tones_hz, seconds))
    return sink.getvalue()


def _encode_tones(stream, tones_hz: Sequence[float], seconds: float) -> list[av.Packet]:
    samples = tones(tones_hz, seconds, stream.rate)
    layout = "mono" if len(tones_hz) == 1 else "stereo"
    packets: list[av.Packet] = []
    for start in range(0, len(samples), 960):
        frame = av.AudioFrame.from_ndarray(samples[start : start + 960].reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, start, Fraction(1, stream.rate)
        packets += stream.encode(frame)
    return packets + stream.encode()


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_picture(
    fmt: str = "JPEG",
    *,
    mode: str = "RGB",
    width: int = 128,
    height: int = 96,
    number: int = 0,
    orientation: int | None = None,
    alpha: int = 255,
    **save_options: object,
) -> bytes:
    """A picture file of `numbered_frame(number)`. fmt: a Pillow format. mode: Pillow's. orientation: EXIF, 1 to 8.

    alpha: for modes with an alpha channel, that of the left half; the right half is opaque.
    """
    image = Image.fromarray(numbered_frame(number, height, width))
    if mode in ("RGBA", "LA"):
        mask = np.full((height, width), 255, np.uint8)
        mask[:, : width // 2] = alpha
        image = image.convert("RGB" if mode == "RGBA" else "L")
        image.putalpha(Image.fromarray(mask))
    else:
        image = image.convert(mode)
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        save_options["exif"] = exif
    sink = io.BytesIO()
    image.save(sink, format=fmt, **save_options)
    return sink.getvalue()
