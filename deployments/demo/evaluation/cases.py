"""What the evaluation asks: fresh media as real files, unlike those of training in size, rate, length; and the truth.

Shape legend: T frames, H height, W width, C channels (RGB).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from deployments.demo.dialogue.conversations import PART, phrase
from deployments.demo.dialogue.others import HELD_OUT_OTHERS, random_other
from deployments.demo.dialogue.truth import LONG_S, SHORT_S, UNKNOWN, Subject, answer
from deployments.demo.dialogue.wordings import HELD_OUT, TRAINED
from deployments.demo.synth.drawing import draw, draw_clip
from deployments.demo.synth.files import Codec, encode_clip, encode_picture, encode_sound
from deployments.demo.synth.scenes import random_scene
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
FRAME_COUNTS = (8, 16)


def make_cases(seed: int, files: int) -> Iterator[Case]:
    """`files` cases of each group; those with clips alternate between FRAME_COUNTS, lone clips come once for each."""
    for number in range(files):
        for place, (group, kinds) in enumerate(GROUPS.items()):
            rng = np.random.default_rng((seed, place, number))
            case = _make_case(rng, group, kinds, FRAME_COUNTS[number % 2])
            yield case
            if group == "a clip":
                yield replace(case, num_frames=sum(FRAME_COUNTS) - case.num_frames)


def _make_case(rng: np.random.Generator, group: str, kinds: tuple[str, ...], num_frames: int) -> Case:
    made = tuple(make_file(rng, random_item(rng, kind)) for kind in kinds)
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
    return Case(made, tuple(asks), num_frames, with_sound="clip with sound" in kinds)


def random_item(rng: np.random.Generator, kind: str) -> Subject:
    """What a file of `kind` is going to show or play."""
    if kind == "picture":
        return Subject(scene=random_scene(rng))
    if kind == "sound":
        return Subject(sound=random_sound(rng))
    if kind == "clip":
        short = rng.random() < 0.5
        return Subject(
            scene=random_scene(rng), clip_s=float(rng.uniform(0.9, SHORT_S) if short else rng.uniform(LONG_S, 5))
        )
    sound = random_sound(rng, duration_s=float(rng.uniform(1.5, 4.5)))
    return Subject(scene=random_scene(rng), sound=sound, clip_s=sound.duration_s)


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
        return MediaFile(item, "image/jpeg", encode_picture(pixels, "jpeg", int(rng.integers(60, 95))))
    fps, codec = RATES[rng.integers(len(RATES))], CODECS[rng.integers(len(CODECS))]
    # The pictures of VP9 and of H.26x need even sides.
    frames = draw_clip(item.scene, height, width // 2 * 2, np.linspace(0, 1, max(2, round(item.clip_s * fps))))
    track = None if item.sound is None else waveform(item.sound, 48000, rng)
    data = encode_clip(frames, fps, codec, int(rng.integers(20, 31)), track, 48000)
    return MediaFile(item, "video/webm" if codec == "libvpx-vp9" else "video/mp4", data)
