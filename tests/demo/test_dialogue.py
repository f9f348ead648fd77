"""Questions and answers: the truth, words that mean one item only, and an evaluation that training has not seen."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from deployments.demo.dialogue.carriers import random_wording
from deployments.demo.dialogue.conversations import phrase, random_conversation, random_sheet, reference
from deployments.demo.dialogue.others import HELD_OUT_OTHERS, OPENERS, SMALL_TALK, WIDE_OPENERS
from deployments.demo.dialogue.truth import UNKNOWN, Question, Subject, answer, describe
from deployments.demo.dialogue.wordings import HELD_OUT, TRAINED
from deployments.demo.samples import scene, sound, two_shapes
from deployments.demo.synth.scenes import Colour, Direction, Shape, random_photograph
from deployments.demo.synth.sounds import Pitch

PICTURE = Subject(scene(Colour.WHITE, Shape.SQUARE))
CLIP = Subject(scene(Colour.RED, Shape.CIRCLE, Direction.LEFT), clip_s=1.5)
SOUND = Subject(sound=sound(Pitch.HIGH, 3, 2.0))
TWO_SHAPES = Subject(two_shapes())
TWO_CIRCLES = Subject(
    replace(two_shapes(), figures=tuple(replace(one, shape=Shape.CIRCLE) for one in two_shapes().figures))
)
PHOTOGRAPH = Subject(random_photograph(np.random.default_rng(0)), clip_s=1.0)
CLIP_WITH_SOUND = Subject(scene(Colour.BLUE, Shape.TRIANGLE), sound(Pitch.LOW, 1, 5.0), 5.0)


@pytest.mark.parametrize(
    ("question", "item", "truth"),
    [
        (Question.COLOUR, CLIP, "red"),
        (Question.SHAPE, PICTURE, "square"),
        (Question.DIRECTION, CLIP, "left"),
        (Question.DIRECTION, CLIP_WITH_SOUND, "still"),
        (Question.COLOUR_DIRECTION, CLIP, "red, left"),
        (Question.LENGTH, CLIP, "short"),
        (Question.LENGTH, CLIP_WITH_SOUND, "long"),
        (Question.TONE, SOUND, "high"),
        (Question.BEEPS, SOUND, "3"),
        (Question.DESCRIPTION, PICTURE, "A white square."),
        (Question.DESCRIPTION, CLIP, "A red circle moves left."),
        (Question.DESCRIPTION, CLIP_WITH_SOUND, "A blue triangle stays still, with 1 low beep."),
        (Question.DESCRIPTION, SOUND, "3 high beeps."),
        (Question.COLOUR, TWO_SHAPES, "red and blue"),
        (Question.SHAPE, TWO_SHAPES, "circle and square"),
        (Question.SHAPE, TWO_CIRCLES, "two circles"),
        (Question.DESCRIPTION, TWO_SHAPES, "A red circle and a blue square."),
        (Question.DESCRIPTION, PHOTOGRAPH, UNKNOWN),
        (Question.COLOUR, PHOTOGRAPH, UNKNOWN),
        (Question.LENGTH, PHOTOGRAPH, "short"),
        (Question.DIRECTION, PICTURE, UNKNOWN),
        (Question.BEEPS, CLIP, UNKNOWN),
        (Question.COLOUR, SOUND, UNKNOWN),
    ],
)
def test_answers_say_what_is_true_or_that_it_cannot_be_known(question: Question, item: Subject, truth: str) -> None:
    assert answer(question, item) == truth


def test_evaluated_wordings_were_not_trained() -> None:
    def words(text: str) -> str:
        return re.sub(r"[^a-z{} ]", "", text.lower()).strip()

    rng = np.random.default_rng(1)
    trained = {words(text) for texts in TRAINED.values() for text in texts}
    trained |= {words(random_wording(rng, question, wide=True)) for question in Question for _ in range(3000)}
    held_out = {words(text) for texts in HELD_OUT.values() for text in texts}
    assert set(TRAINED) == set(HELD_OUT) == set(Question)
    assert not trained & held_out
    assert not set(HELD_OUT_OTHERS) & {*OPENERS, *WIDE_OPENERS, *SMALL_TALK}


def test_a_reference_among_several_items_means_one_only() -> None:
    rng = np.random.default_rng(0)
    items = [PICTURE, CLIP, PICTURE, SOUND]
    phrases = [{reference(rng, items, number) for _ in range(60)} for number in range(len(items))]
    for one, other in itertools.combinations(phrases, 2):
        assert not one & other


def test_a_question_that_several_items_could_answer_names_the_one_it_means() -> None:
    rng = np.random.default_rng(0)
    for question in (Question.COLOUR, Question.SHAPE, Question.DESCRIPTION):
        for wordings in (TRAINED, HELD_OUT):
            texts = [phrase(rng, wordings[question], [PICTURE, PICTURE], 1, question) for _ in range(40)]
            assert all("second" in text or "2" in text for text in texts)


def test_conversations_hold_every_item_once_and_end_with_an_answer() -> None:
    rng = np.random.default_rng(3)
    for number in range(100):
        items = [PICTURE, CLIP, SOUND][: 1 + number % 3]
        conversation = random_conversation(rng, items, turns=4)
        parts = [part["type"] for message in conversation.messages if isinstance(message["content"], list)
                 for part in message["content"] if part["type"] != "text"]  # fmt: skip
        assert parts == ["image", "video", "audio"][: len(items)]
        assert conversation.messages[-1]["role"] == "assistant"


def test_every_question_of_a_sheet_says_what_it_is_about() -> None:
    rng, items = np.random.default_rng(4), [PICTURE, CLIP, SOUND]
    for exchange in random_sheet(rng, items, questions=200).exchanges:
        possible = (
            {answer(question, items[exchange.about]) for question in Question} if exchange.about is not None else ()
        )
        assert exchange.answer in possible or (exchange.about is None and exchange.answer == UNKNOWN)


def test_descriptions_are_one_sentence() -> None:
    for item in (PICTURE, CLIP, SOUND, CLIP_WITH_SOUND):
        assert describe(item).count(".") == 1
