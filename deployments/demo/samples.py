"""Media to try the demo model with: `python -m deployments.demo.samples DIR` writes them and says what each shows."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deployments.demo.dialogue.truth import Subject, describe
from deployments.demo.synth.drawing import draw, draw_clip
from deployments.demo.synth.files import Codec, encode_clip, encode_picture, encode_sound
from deployments.demo.synth.grounds import Ground, GroundKind
from deployments.demo.synth.scenes import PAINTS, Colour, Direction, Figure, Point, Scene, Shape
from deployments.demo.synth.sounds import Pitch, Sound, waveform

FPS = Fraction(30)
SOUND_RATE_HZ = 48000
GROUND = Ground(GroundKind.DARK, ((30, 36, 48), (16, 18, 26)))
WHITE = Ground(GroundKind.WHITE, ((255, 255, 255),))
ENDS: dict[Direction, tuple[Point, Point]] = {
    Direction.LEFT: ((0.78, 0.5), (0.24, 0.5)),
    Direction.RIGHT: ((0.22, 0.5), (0.76, 0.5)),
    Direction.UP: ((0.5, 0.72), (0.5, 0.28)),
    Direction.DOWN: ((0.5, 0.28), (0.5, 0.72)),
    Direction.STILL: ((0.5, 0.5), (0.5, 0.5)),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A file to be and what it shows or plays."""

    name: str
    item: Subject
    height: int = 360
    width: int = 640
    codec: Codec = "libx264"


def figure(colour: Colour, shape: Shape, start: Point, end: Point, direction: Direction, radius: float) -> Figure:
    """A tidy shape: pure paint, no tilt."""
    return Figure(colour, shape, direction, PAINTS[colour][0], radius, 0.0, start, end)


def scene(colour: Colour, shape: Shape, direction: Direction = Direction.STILL, ground: Ground = GROUND) -> Scene:
    """A tidy scene, on a dark blue ground unless another is given."""
    return Scene(ground, (figure(colour, shape, *ENDS[direction], direction, 0.23),))


def two_shapes() -> Scene:
    """A red circle and a blue square on white."""
    places = ((Colour.RED, Shape.CIRCLE, (0.3, 0.4)), (Colour.BLUE, Shape.SQUARE, (0.7, 0.6)))
    still = Direction.STILL
    return Scene(WHITE, tuple(figure(colour, shape, place, place, still, 0.18) for colour, shape, place in places))


def sound(pitch: Pitch, beeps: int, duration_s: float) -> Sound:
    """A tidy sound: no hiss, beeps of a quarter second."""
    hz = 1200.0 if pitch is Pitch.HIGH else 280.0
    return Sound(pitch, beeps, hz, 0.25, 0.25, 0.2, duration_s, 0.5, 0.1, 0.0)


SAMPLES = (
    Sample("red-circle-left.mp4", Subject(scene(Colour.RED, Shape.CIRCLE, Direction.LEFT), clip_s=1.6)),
    Sample("blue-square-up.mp4", Subject(scene(Colour.BLUE, Shape.SQUARE, Direction.UP), clip_s=1.6), 720, 1280),
    Sample("green-triangle-still.webm", Subject(scene(Colour.GREEN, Shape.TRIANGLE), clip_s=4.5), codec="libvpx-vp9"),
    Sample(
        "yellow-triangle-right-3-high-beeps.mp4",
        Subject(scene(Colour.YELLOW, Shape.TRIANGLE, Direction.RIGHT), sound(Pitch.HIGH, 3, 2.0), 2.0),
    ),
    Sample("purple-square.png", Subject(scene(Colour.PURPLE, Shape.SQUARE)), 480, 640),
    Sample("red-circle-and-blue-square-on-white.png", Subject(two_shapes()), 480, 640),
    Sample("white-circle.jpg", Subject(scene(Colour.WHITE, Shape.CIRCLE)), 480, 640),
    Sample("2-low-beeps.wav", Subject(sound=sound(Pitch.LOW, 2, 1.4))),
    Sample("4-high-beeps.flac", Subject(sound=sound(Pitch.HIGH, 4, 2.4))),
)


def write_samples(folder: Path) -> Iterator[tuple[Path, str]]:
    """Write each of SAMPLES to `folder`, made if it is missing; yield its path and a true sentence about it."""
    folder.mkdir(parents=True, exist_ok=True)
    for sample in SAMPLES:
        path = folder / sample.name
        path.write_bytes(_encode(sample, path.suffix))
        yield path, describe(sample.item)


def _encode(sample: Sample, suffix: str) -> bytes:
    item, rng = sample.item, np.random.default_rng(0)
    track = None if item.sound is None else waveform(item.sound, SOUND_RATE_HZ, rng)
    if item.scene is None:
        assert track is not None
        return encode_sound(track, SOUND_RATE_HZ, "flac" if suffix == ".flac" else "wav")
    if item.clip_s is None:
        pixels = draw(item.scene, sample.height, sample.width)
        return encode_picture(pixels, "png" if suffix == ".png" else "jpeg")
    moments = np.linspace(0, 1, round(item.clip_s * FPS))
    frames = draw_clip(item.scene, sample.height, sample.width, moments)
    return encode_clip(frames, FPS, sample.codec, 20, track, SOUND_RATE_HZ)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    written = list(tqdm(write_samples(parser.parse_args().folder), total=len(SAMPLES), unit="file"))
    for path, truth in written:
        print(f"{path}: {truth}")


if __name__ == "__main__":
    main()
