"""Pictures, videos and sounds by real encoders, as cameras and microphones would send them; kept between runs.

What is asked for is written short: `640x480` (a JPEG), `360p@5s`, `1080p@5s` (H.264 in MP4, 30 fps, a key frame each
250 frames, so that a sampler has much to skip), `sound@5s` (16 kHz WAV). Item n of a seed is always the same bytes.

Encoding a clip takes longer than serving it, so `pool` different items are made for each kind and `distinct` gives each
request its own bytes: a server that recognises files by their bytes, or their address, recognises none.
"""

import io
import os
import re
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

CACHE_DIR = Path(tempfile.gettempdir()) / f"sluice-benchmark-media-{os.getuid()}"
FPS, GOP, SOUND_RATE = 30, 250, 16_000

MediaKind = Literal["image", "video", "audio"]
MIME_TYPES: dict[MediaKind, str] = {"image": "image/jpeg", "video": "video/mp4", "audio": "audio/wav"}
POOL: dict[MediaKind, int] = {"image": 32, "video": 8, "audio": 16}
"""Different items of a kind."""
LARGE_CLIP, LARGE_CLIP_POOL = 2_000_000, 2
"""Pixels x seconds from which a clip takes many seconds to encode; so many different ones are made of those."""


@dataclass(frozen=True, slots=True)
class MediaSpec:
    """One sort of item."""

    kind: MediaKind
    width: int = 0
    height: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "MediaSpec":
        """`640x480`, `360p@5s`, `sound@5s`. Raises ValueError for anything else."""
        if size := re.fullmatch(r"(\d+)x(\d+)", text):
            return cls("image", int(size[1]), int(size[2]))
        if clip := re.fullmatch(r"(\d+)(?:x(\d+)|p)@(\d+(?:\.\d+)?)s", text):
            height = int(clip[2] or clip[1])
            width = int(clip[1]) if clip[2] else round(height * 16 / 9 / 2) * 2
            return cls("video", width, height, float(clip[3]))
        if sound := re.fullmatch(r"sound@(\d+(?:\.\d+)?)s", text):
            return cls("audio", seconds=float(sound[1]))
        raise ValueError(f"{text!r} is no medium: write 640x480, 360p@5s, 374x374@30s or sound@5s")

    @property
    def name(self) -> str:
        if self.kind == "audio":
            return f"sound@{self.seconds:g}s"
        return f"{self.width}x{self.height}" + (f"@{self.seconds:g}s" if self.kind == "video" else "")

    @property
    def pool(self) -> int:
        """Different items that are made."""
        large = self.kind == "video" and self.width * self.height * self.seconds > LARGE_CLIP
        return LARGE_CLIP_POOL if large else POOL[self.kind]

    def make(self, seed: int, number: int) -> bytes:
        """The file, from `CACHE_DIR` if it was made before."""
        path = CACHE_DIR / f"{self.name}-{seed}-{number}"
        if not path.exists():
            CACHE_DIR.mkdir(mode=0o700, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}")
            part.write_bytes(_encode(self, np.random.default_rng([seed, number])))
            part.replace(path)
        return path.read_bytes()


def make_pool(spec: MediaSpec, seed: int, size: int | None = None) -> list[bytes]:
    """The kind's pool of different items, with a progress bar: the first time takes a while."""
    numbers = tqdm(range(size or spec.pool), desc=f"media {spec.name}", disable=None, leave=False)
    return [spec.make(seed, number) for number in numbers]


def distinct(kind: MediaKind, data: bytes, number: int) -> bytes:
    """`data` as a file of the same content that no other number has."""
    mark = struct.pack(">Q", number)
    if kind == "video":
        return data + struct.pack(">I4s", 8 + len(mark), b"free") + mark  # a box that players skip
    if kind == "audio":
        return data[: -len(mark)] + mark  # the last four samples
    return data + mark  # decoders stop at JPEG's end marker


# ── encoders ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _encode(spec: MediaSpec, source: np.random.Generator) -> bytes:
    if spec.kind == "image":
        return _picture(_scene(source, spec.height, spec.width))
    if spec.kind == "video":
        return _clip(source, spec)
    return _sound(source, spec.seconds)


def _scene(source: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3): clouds of five scales, blocks with edges, a little sensor noise: compresses about as a photo does."""
    image = np.zeros((height, width, 3), np.float32)
    for cells in (3, 7, 15, 40, 90):
        coarse = Image.fromarray(source.integers(0, 256, (cells, cells, 3), np.uint8))
        image += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) / cells**0.5
    image *= 160 / image.max()
    for _ in range(12):
        top, left = source.integers(0, height * 3 // 4), source.integers(0, width * 3 // 4)
        tall, wide = source.integers(height // 16, height // 4), source.integers(width // 16, width // 4)
        image[top : top + tall, left : left + wide] += source.normal(0, 40, 3)
    return np.clip(image + source.normal(32, 3, image.shape), 0, 255).astype(np.uint8)


def _picture(image: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=88)
    return sink.getvalue()


def _clip(source: np.random.Generator, spec: MediaSpec) -> bytes:
    """A camera pans over a scene while a block crosses it; the sensor's noise changes from frame to frame."""
    frames = round(spec.seconds * FPS)
    scene = _scene(source, spec.height * 5 // 4, spec.width * 5 // 4)
    block = _scene(source, spec.height // 4, spec.width // 4)
    noises = source.normal(0, 3, (6, spec.height, spec.width, 1)).astype(np.int8).view(np.uint8)
    phase = source.uniform(0, 2 * np.pi)
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, "yuv420p"
        stream.codec_context.gop_size = GOP
        stream.options = {"preset": "veryfast", "crf": "22", "x264-params": f"keyint={GOP}:scenecut=0"}
        for number in range(frames):
            turn = 2 * np.pi * number / (8 * FPS) + phase
            top = round((spec.height // 8) * (1 + np.sin(turn)))
            left = round((spec.width // 8) * (1 + np.cos(turn)))
            frame = scene[top : top + spec.height, left : left + spec.width].clip(20, 235)
            right = (number * spec.width // 90) % (spec.width - block.shape[1])
            frame[spec.height // 3 : spec.height // 3 + block.shape[0], right : right + block.shape[1]] = block.clip(
                20, 235
            )
            frame += noises[number % len(noises)]
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return sink.getvalue()


def _sound(source: np.random.Generator, seconds: float) -> bytes:
    time = np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE
    tones = sum(np.sin(2 * np.pi * frequency * time) for frequency in source.uniform(100, 3000, 4))
    samples = 0.1 * tones + source.normal(0, 0.02, len(time))
    sink = io.BytesIO()
    soundfile.write(sink, samples.astype(np.float32), SOUND_RATE, format="WAV", subtype="PCM_16")
    return sink.getvalue()
