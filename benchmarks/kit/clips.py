"""Clips for the media benchmarks: a camera that pans over a textured scene, encoded as players and phones do.

Made once and kept in the system's folder for temporary files; the same seed and encoder make the same clip.
"""

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

FPS = 30
AUDIO_RATE_HZ = 48_000
_MARGIN = 1.25
_LOOP_FRAMES = 450


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """What a clip is; H.264 with B-frames and an AAC track unless `codec` says otherwise."""

    height: int
    seconds: int
    gop: int
    codec: str = "libx264"

    @property
    def width(self) -> int:
        return self.height * 16 // 9 // 2 * 2

    @property
    def name(self) -> str:
        codec = {"libx264": "", "libx265": "HEVC ", "libvpx-vp9": "VP9 ", "libsvtav1": "AV1 "}[self.codec]
        return f"{codec}{self.height}p {self.seconds} s, GOP {self.gop}"


def clip(spec: ClipSpec, seed: int = 0) -> NDArray[np.uint8]:
    """The file's bytes, (size,)."""
    folder = Path(tempfile.gettempdir()) / "sluice-benchmark-clips"
    folder.mkdir(exist_ok=True)
    path = folder / f"{spec.codec}-{spec.height}p-{spec.seconds}s-gop{spec.gop}-seed{seed}.mp4"
    if not path.exists():
        unfinished = path.with_suffix(".part")
        _encode(spec, seed, unfinished)
        unfinished.rename(path)
    return np.fromfile(path, np.uint8)


def _encode(spec: ClipSpec, seed: int, path: Path) -> None:
    scene = _scene(spec, np.random.default_rng(seed))
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as output:
        video = output.add_stream(spec.codec, rate=FPS)
        video.width, video.height, video.pix_fmt = spec.width, spec.height, "yuv420p"
        video.codec_context.gop_size = spec.gop
        video.options = _options(spec)
        audio = output.add_stream("aac", rate=AUDIO_RATE_HZ, layout="stereo")
        total, loop = spec.seconds * FPS, -(-_LOOP_FRAMES // spec.gop) * spec.gop
        packets: list[av.Packet] = []
        for number in tqdm(range(min(total, loop)), desc=f"making {spec.name}", disable=None, leave=False):
            packets += video.encode(_view(scene, spec, number))
        packets += video.encode()
        for start in range(0, total, loop):
            for packet in packets[: total - start]:
                output.mux(_later(packet, start))
            for number in range(start, min(start + loop, total)):
                output.mux(audio.encode(_tone(number)))
        output.mux(audio.encode())


def _later(packet: av.Packet, frames: int) -> av.Packet:
    """A copy of `packet`, shown `frames` frames later: long clips repeat whole groups of pictures."""
    copy = av.Packet(bytes(packet))
    shift = round(frames / FPS / packet.time_base)
    copy.pts, copy.dts, copy.duration = packet.pts + shift, packet.dts + shift, packet.duration
    copy.time_base, copy.stream, copy.is_keyframe = packet.time_base, packet.stream, packet.is_keyframe
    return copy


def _options(spec: ClipSpec) -> dict[str, str]:
    gop = f"keyint={spec.gop}:min-keyint={spec.gop}:scenecut=0"
    return {
        "libx264": {"preset": "veryfast", "crf": "23", "bf": "3", "x264-params": gop},
        "libx265": {"preset": "superfast", "crf": "26", "x265-params": gop + ":bframes=4:log-level=none"},
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "7", "crf": "32", "b": "0", "row-mt": "1"},
        "libsvtav1": {"preset": "10", "crf": "34", "svtav1-params": f"keyint={spec.gop}"},
    }[spec.codec]


@dataclass(frozen=True, slots=True)
class _Scene:
    """A picture larger than the frames: smooth shapes and edges; and grain, which differs from frame to frame."""

    luma: NDArray[np.uint8]
    """(H, W)"""
    chroma: NDArray[np.uint8]
    """(H / 2, W / 2, 2)"""
    grain: NDArray[np.uint8]
    """(H, W), to be added modulo 256."""


def _scene(spec: ClipSpec, random: np.random.Generator) -> _Scene:
    height, width = int(spec.height * _MARGIN) // 2 * 2, int(spec.width * _MARGIN) // 2 * 2
    luma = sum(_clouds(random, height, width, cells) * weight for cells, weight in ((6, 70), (40, 40), (200, 22)))
    luma = 128 + luma + 30 * np.sign(_clouds(random, height, width, 16))
    grain = np.clip(random.normal(0, 2.5, (spec.height + 64, spec.width + 64)), -15, 15)
    chroma = [128 + 50 * _clouds(random, height // 2, width // 2, 10) for _ in range(2)]
    return _Scene(
        np.clip(luma, 16, 235).astype(np.uint8),
        np.clip(np.stack(chroma, -1), 16, 240).astype(np.uint8),
        np.round(grain).astype(np.int8).view(np.uint8),
    )


def _clouds(random: np.random.Generator, height: int, width: int, cells: int) -> NDArray[np.float64]:
    """(height, width) within about +-1, changing over 1 / `cells` of the width."""
    grid = random.uniform(-1, 1, (cells * height // width + 2, cells + 2))
    y = np.linspace(0, grid.shape[0] - 1.001, height)
    x = np.linspace(0, grid.shape[1] - 1.001, width)
    rows = grid[y.astype(int)] * (1 - y % 1)[:, None] + grid[y.astype(int) + 1] * (y % 1)[:, None]
    return rows[:, x.astype(int)] * (1 - x % 1) + rows[:, x.astype(int) + 1] * (x % 1)


def _view(scene: _Scene, spec: ClipSpec, number: int) -> av.VideoFrame:
    """What the camera sees: it goes round in 20 s, and a brighter window crosses the scene."""
    luma, chroma = scene.luma, scene.chroma
    angle = 2 * np.pi * number / (20 * FPS)
    room_y, room_x = luma.shape[0] - spec.height, luma.shape[1] - spec.width
    y = int(room_y * (1 + np.sin(angle)) / 2) // 2 * 2
    x = int(room_x * (1 - np.cos(angle)) / 2) // 2 * 2
    planes = luma[y : y + spec.height, x : x + spec.width].copy()
    left = (number * 7) % spec.width
    window = planes[spec.height // 4 : spec.height // 2, left : left + spec.width // 6]
    np.add(window, 20, out=window, where=window < 215)
    grain = scene.grain[(number * 37) % 64 :, (number * 53) % 64 :][: spec.height, : spec.width]
    planes += grain  # wraps for none: luma is kept in 16 to 235
    colours = chroma[y // 2 : (y + spec.height) // 2, x // 2 : (x + spec.width) // 2]
    packed = np.concatenate([planes.ravel(), colours[..., 0].ravel(), colours[..., 1].ravel()])
    frame = av.VideoFrame.from_ndarray(packed.reshape(-1, spec.width), format="yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, FPS)
    return frame


def _tone(number: int) -> av.AudioFrame:
    """The sound of frame `number`'s thirtieth of a second."""
    samples = AUDIO_RATE_HZ // FPS
    time = (np.arange(samples) + number * samples) / AUDIO_RATE_HZ
    sines = np.stack([np.sin(2 * np.pi * hz * time) / 2 for hz in (440, 660)]).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(sines, format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = AUDIO_RATE_HZ, number * samples, Fraction(1, AUDIO_RATE_HZ)
    return frame
