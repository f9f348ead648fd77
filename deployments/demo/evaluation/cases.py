"""What the evaluation asks: fresh media as real files, unlike those of training in size, rate, length; and the truth.

Shape legend: T frames, H height, W width, C channels (RGB).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from deployments.demo.dialogue.conversations import PART, phrase
from deployments.demo.dialogue.others import HELD_OUT_OTHERS, random_other
from deployments.demo.dialogue.truth import LONG_S, SHORT_S, UNKNOWN, Subject, answer
from deployments.demo.dialogue.wordings import HELD_OUT, TRAINED
from deployments.demo.synth.drawing import draw, draw_clip
from deployments.demo.synth.files import Codec, encode_clip, encode_picture, encode_sound
from deployments.demo.synth.grounds import GroundKind
from deployments.demo.synth.scenes import Colour, random_pair, random_photograph, random_scene
from deployments.demo.synth.sounds import random_sound, waveform

SIZES = ((360, 640), (270, 480), (480, 640), (320, 320), (480, 270), (540, 960), (240, 426))
"""Height and width in pixels."""
RATES = (Fraction(12), Fraction(24000, 1001), Fraction(25), Fraction(30))
CODECS: tuple[Codec, ...] = ("libx264", "libx264", "libx265", "libvpx-vp9")
SOUND_RATES_HZ = (16000, 22050, 44100, 48000)


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file's bytes and what it holds."""

    item: Subject
    mime: str
    data: bytes

    @property
    def part(self) -> str:
        """Type of the content part: `image`, `video` or `audio`."""
        return PART[self.item.noun]


@dataclass(frozen=True, slots=True)
class Ask:
    """One question on the files of a request, and the right answer."""

    group: str
    """Row of the table."""
    question: str
    """Column of the table: the question's kind."""
    text: str
    truth: str
    held_out: bool
    """Whether the wording was kept from training."""


@dataclass(frozen=True, slots=True)
class Case:
    """A set of files and all that is asked about it, each in a request of its own."""

    files: tuple[MediaFile, ...]
    asks: tuple[Ask, ...]
    num_frames: int
    with_sound: bool = False
    """Whether the sound tracks of the clips are listened to."""


GROUPS: dict[str, tuple[str, ...]] = {
    "a picture": ("picture",),
    "a clip": ("clip",),
    "a sound": ("sound",),
    "a clip with its sound": ("clip with sound",),
    "two pictures": ("picture", "picture"),
    "two clips": ("clip", "clip"),
    "two sounds": ("sound", "sound"),
    "a picture and a sound": ("picture", "sound"),
}
"""Kinds of request, and what each holds: on any ground."""
GROUNDS: dict[str, tuple[str, GroundKind | None]] = {
    **{f"picture: {kind}": ("picture", kind) for kind in GroundKind},
    "picture: two shapes on any ground": ("two shapes", None),
    "picture: photograph without a shape": ("photograph", None),
    **{f"clip: {kind}": ("clip", kind) for kind in GroundKind},
    "clip: photograph without a shape": ("panned photograph", None),
}
"""Kinds of ground, and what is on each: one file a request."""
FRAME_COUNTS = (8, 16)


class Recipe(NamedTuple):
    """What makes a case: `make_case` does, in any process."""

    group: str
    seed: tuple[int, ...]
    num_frames: int


def recipes(seed: int, files: int, grounds: bool = False) -> Iterator[Recipe]:
    """`files` of each of GROUPS, or of GROUNDS; frames alternate between FRAME_COUNTS, lone clips come with both."""
    for number in range(files):
        for place, group in enumerate(GROUNDS if grounds else GROUPS):
            recipe = Recipe(group, (seed, place + 100 * grounds, number), FRAME_COUNTS[number % 2])
            yield recipe
            if group == "a clip":
                yield recipe._replace(num_frames=sum(FRAME_COUNTS) - recipe.num_frames)


def make_cases(seed: int, files: int, grounds: bool = False) -> Iterator[Case]:
    """Those of all recipes."""
    return map(make_case, recipes(seed, files, grounds))


def make_case(recipe: Recipe) -> Case:
    """The same for the same recipe, but for what encoders do differently from time to time."""
    rng, group = np.random.default_rng(recipe.seed), recipe.group
    kinds = GROUPS.get(group) or (GROUNDS[group][0],)
    made = tuple(make_file(rng, random_item(rng, kind, GROUNDS.get(group, ("", None))[1])) for kind in kinds)
    items = [file.item for file in made]
    number = int(rng.integers(len(items)))
    asks = []
    for question in items[number].questions():
        truth = answer(question, items[number])
        for wordings, held_out in ((TRAINED, False), (HELD_OUT, True)):
            text = phrase(rng, wordings[question], items, number, question)
            asks.append(Ask(group, str(question), text, truth, held_out))
    asks.append(Ask(group, "anything else", random_other(rng), UNKNOWN, held_out=False))
    asks.append(Ask(group, "anything else", str(rng.choice(HELD_OUT_OTHERS)), UNKNOWN, held_out=True))
    return Case(made, tuple(asks), recipe.num_frames, with_sound="clip with sound" in kinds)


def random_item(rng: np.random.Generator, kind: str, ground: GroundKind | None = None) -> Subject:
    """What a file of `kind` is going to show or play, on a `ground` if one is given."""
    if kind == "two shapes":
        return Subject(scene=random_pair(rng))
    if kind == "photograph":
        return Subject(scene=random_photograph(rng))
    if kind == "sound":
        return Subject(sound=random_sound(rng))
    if kind == "panned photograph":
        return Subject(random_photograph(rng), clip_s=_random_duration(rng))
    # White is not drawn on white.
    colours = [colour for colour in Colour if ground is not GroundKind.WHITE or colour is not Colour.WHITE]
    scene = random_scene(rng, Colour(rng.choice(colours)), kind=ground)
    if kind == "picture":
        return Subject(scene)
    if kind == "clip":
        return Subject(scene, clip_s=_random_duration(rng))
    sound = random_sound(rng, duration_s=float(rng.uniform(1.5, 4.5)))
    return Subject(scene, sound, clip_s=sound.duration_s)


def _random_duration(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.9, SHORT_S) if rng.random() < 0.5 else rng.uniform(LONG_S, 5))


def make_file(rng: np.random.Generator, item: Subject) -> MediaFile:
    """`item` through a real encoder of random settings."""
    height, width = SIZES[rng.integers(len(SIZES))]
    rate_hz = int(rng.choice(SOUND_RATES_HZ))
    if item.scene is None:
        assert item.sound is not None
        samples = waveform(item.sound, rate_hz, rng)
        return (
            MediaFile(item, "audio/wav", encode_sound(samples, rate_hz, "wav"))
            if rng.random() < 0.5
            else MediaFile(item, "audio/flac", encode_sound(samples, rate_hz, "flac"))
        )
    if item.clip_s is None:
        pixels = draw(item.scene, height, width)
        if rng.random() < 0.5:
            return MediaFile(item, "image/png", encode_picture(pixels, "png"))
        return MediaFile(item, "image/jpeg", encode_picture(pixels, "jpeg", int(rng.integers(40, 96))))
    fps, codec = RATES[rng.integers(len(RATES))], CODECS[rng.integers(len(CODECS))]
    # The pictures of VP9 and of H.26x need even sides.
    frames = draw_clip(item.scene, height, width // 2 * 2, np.linspace(0, 1, max(2, round(item.clip_s * fps))))
    track = None if item.sound is None else waveform(item.sound, 48000, rng)
    data = encode_clip(frames, fps, codec, int(rng.integers(20, 31)), track, 48000)
    return MediaFile(item, "video/webm" if codec == "libvpx-vp9" else "video/mp4", data)
