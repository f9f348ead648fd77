"""The pool of pictures and clips that training draws from, at the sizes which the processor makes of them.

Each is drawn at the size of a file, goes through a real codec, and is resized by one of the ways that a server may use.
Shape legend: T frames, C channels (RGB), H height, W width; gh, gw tokens down and across (28 x 28 pixels each).
"""

import io
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as transforms
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from deployments.demo.blueprint import MAX_PIXELS, MIN_PIXELS
from deployments.demo.synth.drawing import coverage, draw_clip
from deployments.demo.synth.files import encode_clip
from deployments.demo.synth.grounds import GroundKind
from deployments.demo.synth.scenes import Direction, Scene, random_pair, random_photograph, random_scene

TOKEN_SIDE = 28
ASPECTS = (16 / 9, 16 / 9, 16 / 9, 4 / 3, 4 / 3, 1.0, 3 / 2, 9 / 16, 3 / 4)
"""Width by height; what is usual comes more often."""
FRAME_COUNTS = (2, 3, 4, 5, 6, 8, 8, 8, 10, 12, 16, 16, 16)
GLIMPSED_GROUNDS: dict[GroundKind, float] = {
    GroundKind.DARK: 0.11,
    GroundKind.WHITE: 0.11,
    GroundKind.COLOUR: 0.16,
    GroundKind.GRADIENT: 0.16,
    GroundKind.NOISE: 0.23,
    GroundKind.PHOTOGRAPH: 0.23,
}
"""What is harder to see on comes more often."""
PHOTOGRAPHS, TWO_SHAPES, MOVING = 0.1, 0.4, 0.3
"""Shares of what shows no shape; of the pictures that show two; of the glimpses that are of clips."""


@dataclass(frozen=True, slots=True)
class Visual:
    """A picture (T = 1) or a clip after decoding, sampling and resizing."""

    scene: Scene
    frames_TCHW: NDArray[np.uint8]
    covered: NDArray[np.float16]
    """Share of each token (F, T, gh, gw) that each figure covers."""


def random_visual(rng: np.random.Generator, clip: bool) -> Visual:
    """Draw a picture or a clip at the size of a file, encode, decode, resize."""
    return _made(rng, _random_scene(rng, clip), _moments(rng) if clip else np.zeros(1), clip)


def random_glimpse(rng: np.random.Generator) -> Visual:
    """Draw what the vision tower sees at once: a picture, or two frames of a clip that follow each other."""
    clip = rng.random() < MOVING
    kind = GroundKind(rng.choice(list(GLIMPSED_GROUNDS), p=list(GLIMPSED_GROUNDS.values())))
    moments = _moments(rng) if clip else np.zeros(1)
    first = 2 * int(rng.integers((len(moments) + 1) // 2))
    return _made(rng, _random_scene(rng, clip, kind), moments[first : first + 2], clip)


def _made(rng: np.random.Generator, scene: Scene, moments: NDArray[np.float64], clip: bool) -> Visual:
    height, width = _source_size(rng)
    frames = draw_clip(scene, height, width, list(moments))
    lossy = _through_video_codec(rng, frames) if clip and rng.random() < 0.6 else _through_jpeg(rng, frames)
    target = smart_resize(height, width, TOKEN_SIDE, MIN_PIXELS, MAX_PIXELS)
    return Visual(scene, _resize(rng, lossy, target), _covered(scene, target, moments))


def _random_scene(rng: np.random.Generator, clip: bool, kind: GroundKind | None = None) -> Scene:
    chance = rng.random()
    if chance < PHOTOGRAPHS:
        return random_photograph(rng)
    if clip:
        return random_scene(rng, kind=kind)
    if chance < PHOTOGRAPHS + TWO_SHAPES:
        return random_pair(rng, kind)
    return random_scene(rng, direction=Direction.STILL, kind=kind)


def _covered(scene: Scene, target: tuple[int, int], moments: NDArray[np.float64]) -> NDArray[np.float16]:
    down, across = target[0] // TOKEN_SIDE, target[1] // TOKEN_SIDE
    shares = np.zeros((len(scene.figures), len(moments), down, across), np.float16)
    for number, figure in enumerate(scene.figures):
        for frame, moment in enumerate(moments):
            mask = coverage(figure, target[0], target[1], moment)
            shares[number, frame] = mask.reshape(down, TOKEN_SIDE, across, TOKEN_SIDE).mean((1, 3))
    return shares


def _source_size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width in pixels, even; the short side is 90 to 240."""
    aspect = rng.choice(ASPECTS)
    short = rng.uniform(90, 240)
    height, width = (short, short * aspect) if aspect >= 1 else (short / aspect, short)
    return int(height) // 2 * 2, int(width) // 2 * 2


def _moments(rng: np.random.Generator) -> NDArray[np.float64]:
    """Progress of each sampled frame: samplers differ in how near to both ends they go."""
    return np.linspace(rng.uniform(0, 0.06), rng.uniform(0.9, 1), int(rng.choice(FRAME_COUNTS)))


def _through_video_codec(rng: np.random.Generator, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    data = encode_clip(frames, Fraction(8), "libx264", int(rng.integers(18, 33)))
    with av.open(io.BytesIO(data)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(decoded)


def _through_jpeg(rng: np.random.Generator, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if rng.random() < 0.2:
        return frames
    options = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))]
    encoded = [cv2.imencode(".jpg", frame[..., ::-1], options)[1] for frame in frames]
    decoded = [np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8) for data in encoded]
    return np.stack(decoded)[..., ::-1]


def _resize(rng: np.random.Generator, frames: NDArray[np.uint8], target: tuple[int, int]) -> NDArray[np.uint8]:
    """To (T, C, *target): mostly as the processor does it, sometimes as a decoder would."""
    if rng.random() < 0.6:
        pixels = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
        resized = transforms.resize(pixels, list(target), transforms.InterpolationMode.BICUBIC, antialias=True)
        return np.asarray(resized)
    way = int(rng.choice([cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
    smaller = [cv2.resize(np.ascontiguousarray(frame), target[::-1], interpolation=way) for frame in frames]
    return np.ascontiguousarray(np.stack(smaller).transpose(0, 3, 1, 2), np.uint8)
