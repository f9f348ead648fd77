"""Is the pipeline sound? Media whose truth is known, and whether a server's answers to them are true.

The four questions are those which a fault in the pipeline makes wrong: channels swapped (colour), frames out of order
(direction), sound lost or at the wrong rate (tone, beeps).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from deployments.demo.dialogue.truth import Question, Subject, answer
from deployments.demo.evaluation.cases import MediaFile, make_file
from deployments.demo.synth.grounds import GroundKind
from deployments.demo.synth.scenes import TELLING_COLOURS, Direction, random_scene
from deployments.demo.synth.sounds import Pitch, random_sound

RADII = (0.2, 0.3)
"""Of the short side: what can be told without doubt, so that an untrue answer is the pipeline's."""
TEXT = {
    Question.COLOUR: "What colour is the shape?",
    Question.DIRECTION: "Which way does it move?",
    Question.TONE: "Is the tone high or low?",
    Question.BEEPS: "How many beeps do you hear?",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """One file, one question, its one true answer."""

    file: MediaFile
    question: str
    truth: str


def make_probes(seed: int, rounds: int = 1) -> Iterator[Probe]:
    """Each round: colour of a picture; colour and direction of a clip; tone and beeps of a sound. All from `seed`."""
    rng = np.random.default_rng((seed, 20))
    directions = [direction for direction in Direction if direction is not Direction.STILL]
    for number in range(rounds):
        colours = [TELLING_COLOURS[(number + place) % len(TELLING_COLOURS)] for place in range(2)]
        dark = GroundKind.DARK
        picture = Subject(scene=random_scene(rng, colours[0], kind=dark, radii=RADII))
        clip = Subject(random_scene(rng, colours[1], None, directions[number % 4], dark, RADII), clip_s=1.6)
        sound = Subject(sound=random_sound(rng, list(Pitch)[number % 2]))
        for item, questions in (
            (picture, (Question.COLOUR,)),
            (clip, (Question.COLOUR, Question.DIRECTION)),
            (sound, (Question.TONE, Question.BEEPS)),
        ):
            file = make_file(rng, item)
            yield from (Probe(file, TEXT[question], answer(question, item)) for question in questions)


def wrong_answers(probes: Iterator[Probe] | list[Probe], ask: Callable[[MediaFile, str], str]) -> list[str]:
    """What `ask(file, question)` got wrong, in words; empty when all is well."""
    asked = ((probe, ask(probe.file, probe.question)) for probe in probes)
    return [f"{probe.question} {got!r}, not {probe.truth!r}" for probe, got in asked if got != probe.truth]
