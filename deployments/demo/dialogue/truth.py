"""The kinds of question and the one right answer to each."""

from dataclasses import dataclass
from enum import StrEnum

from deployments.demo.synth.scenes import Direction, Scene, Shape
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
    """A picture (a scene), a clip (a scene with a duration), a clip with its sound track, or a sound.

    A scene of two shapes, or of none, is a picture's or a silent clip's, two shapes a picture's alone.
    """

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
    if question is Question.LENGTH:
        return "short" if item.clip_s is not None and item.clip_s <= SHORT_S else "long"
    if item.sound is not None and question in (Question.TONE, Question.BEEPS):
        return str(item.sound.pitch) if question is Question.TONE else str(item.sound.beeps)
    if item.scene is not None and not item.scene.figures:
        return UNKNOWN
    if question is Question.DESCRIPTION:
        return describe(item)
    assert item.scene is not None
    figures = item.scene.figures
    return {
        Question.COLOUR: " and ".join(figure.colour for figure in figures),
        Question.SHAPE: _shapes([figure.shape for figure in figures]),
        Question.DIRECTION: str(figures[0].direction),
        Question.COLOUR_DIRECTION: f"{figures[0].colour}, {figures[0].direction}",
    }[question]


def _shapes(shapes: list[Shape]) -> str:
    """ "circle", "circle and square" in the order of `Shape`, "two circles"."""
    if len(shapes) == 2 and shapes[0] is shapes[1]:
        return f"two {shapes[0]}s"
    return " and ".join(shape for shape in Shape if shape in shapes)


def describe(item: Subject) -> str:
    """One sentence: "A red circle and a blue square.", "A red circle moves left, with 3 high beeps.", "1 low beep."."""
    heard = "" if item.sound is None else f"{item.sound.beeps} {item.sound.pitch} beep"
    if item.sound is not None and item.sound.beeps > 1:
        heard += "s"
    if item.scene is None:
        return f"{heard}."
    seen = "A " + " and a ".join(f"{figure.colour} {figure.shape}" for figure in item.scene.figures)
    if item.clip_s is not None:
        direction = item.scene.figures[0].direction
        seen += " stays still" if direction is Direction.STILL else f" moves {direction}"
    return f"{seen}, with {heard}." if heard else f"{seen}."
