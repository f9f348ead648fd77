"""The kinds of question and the one right answer to each."""

from dataclasses import dataclass
from enum import StrEnum

from deployments.demo.synth.scenes import Direction, Scene
from deployments.demo.synth.sounds import Sound

UNKNOWN = "I only know simple shapes and tones."
"""The answer to everything else, and to what the media at hand can't tell."""
SHORT_S, LONG_S = 1.8, 4.0
"""A clip of at most SHORT_S is short, one of at least LONG_S is long; nobody asks about those between."""


class Question(StrEnum):
    COLOUR = "colour"
    SHAPE = "shape"
    DIRECTION = "direction"
    COLOUR_DIRECTION = "colour and direction"
    LENGTH = "length"
    TONE = "tone"
    BEEPS = "beeps"
    DESCRIPTION = "description"


OF_PICTURES = (Question.COLOUR, Question.SHAPE, Question.DESCRIPTION)
OF_CLIPS = (*OF_PICTURES, Question.DIRECTION, Question.COLOUR_DIRECTION, Question.LENGTH)
OF_SOUNDS = (Question.TONE, Question.BEEPS, Question.DESCRIPTION)


@dataclass(frozen=True, slots=True)
class Subject:
    """A picture (a scene), a clip (a scene with a duration), a clip with its sound track, or a sound."""

    scene: Scene | None = None
    sound: Sound | None = None
    clip_s: float | None = None

    @property
    def noun(self) -> str:
        """What people call it."""
        if self.scene is None:
            return "sound"
        return "picture" if self.clip_s is None else "clip"

    def questions(self) -> tuple[Question, ...]:
        """What it can answer."""
        known: tuple[Question, ...] = () if self.scene is None else OF_PICTURES if self.clip_s is None else OF_CLIPS
        if self.clip_s is not None and SHORT_S < self.clip_s < LONG_S:
            known = tuple(question for question in known if question is not Question.LENGTH)
        return known if self.sound is None else tuple(dict.fromkeys((*known, *OF_SOUNDS)))


def answer(question: Question, item: Subject) -> str:
    """The truth on `item`, in the fixed words of the demo; UNKNOWN where `item` can't tell it."""
    if question not in item.questions():
        return UNKNOWN
    if question is Question.DESCRIPTION:
        return describe(item)
    if question is Question.LENGTH:
        return "short" if item.clip_s is not None and item.clip_s <= SHORT_S else "long"
    if item.sound is not None and question in (Question.TONE, Question.BEEPS):
        return str(item.sound.pitch) if question is Question.TONE else str(item.sound.beeps)
    assert item.scene is not None
    return {
        Question.COLOUR: str(item.scene.colour),
        Question.SHAPE: str(item.scene.shape),
        Question.DIRECTION: str(item.scene.direction),
        Question.COLOUR_DIRECTION: f"{item.scene.colour}, {item.scene.direction}",
    }[question]


def describe(item: Subject) -> str:
    """One sentence: "A red circle.", "A red circle moves left, with 3 high beeps.", "1 low beep."."""
    heard = "" if item.sound is None else f"{item.sound.beeps} {item.sound.pitch} beep"
    if item.sound is not None and item.sound.beeps > 1:
        heard += "s"
    if item.scene is None:
        return f"{heard}."
    seen = f"A {item.scene.colour} {item.scene.shape}"
    if item.clip_s is not None:
        still = item.scene.direction is Direction.STILL
        seen += " stays still" if still else f" moves {item.scene.direction}"
    return f"{seen}, with {heard}." if heard else f"{seen}."
