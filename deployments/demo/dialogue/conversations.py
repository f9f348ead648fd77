"""Conversations on some items: who is asked what, in which words, where the media stand, and the true answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deployments.demo.dialogue.carriers import random_wording
from deployments.demo.dialogue.others import SYSTEM_MESSAGES, random_other
from deployments.demo.dialogue.truth import UNKNOWN, Question, Subject, answer, describe
from deployments.demo.dialogue.wordings import ENDINGS, OPENINGS, ORDINALS, SYNONYMS, TRAINED
from deployments.demo.synth.scenes import Colour, Direction, Shape, random_scene
from deployments.demo.synth.sounds import Pitch, random_sound

PART = {"picture": "image", "clip": "video", "sound": "audio"}
"""Type of the content part, by an item's noun."""
COMPOSED = 0.4
"""Share of the questions that are put together; the others are in TRAINED."""
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, its true answer, and which of the items it is about, from 0; None where none could tell."""

    question: str
    answer: str
    about: int | None


@dataclass(frozen=True, slots=True)
class Sheet:
    """Many questions on the same items, each meant to be asked alone."""

    system: str | None
    exchanges: tuple[Turn, ...]
    items: tuple[Subject, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages for the chat template, answers included; `items` in the order in which the messages hold them."""

    messages: list[dict[str, Any]]
    items: tuple[Subject, ...]


def reference(rng: np.random.Generator, items: Sequence[Subject], number: int) -> str:
    """A phrase that means `items[number]` and no other: "the clip", "the second picture", "picture 2"."""
    noun = items[number].noun
    alike = [place for place, item in enumerate(items) if item.noun == noun]
    word = str(rng.choice(SYNONYMS[noun]))
    if len(alike) == 1:
        return f"{rng.choice(['the', 'the', 'this'])} {word}"
    place = alike.index(number)
    if rng.random() < 0.15:
        return f"{word} {place + 1}"
    return f"the {ORDINALS[place]} {word}"


def phrase(
    rng: np.random.Generator, wordings: Sequence[str], items: Sequence[Subject], number: int, question: Question
) -> str:
    """One of `wordings` about `items[number]`, which it names where it must."""
    named = reference(rng, items, number)
    others = [item for place, item in enumerate(items) if place != number]
    needed = any(question in item.questions() for item in others) or (question is Question.DESCRIPTION and bool(others))
    where = f" in {named}" if needed or rng.random() < 0.3 else ""
    usable = [wording for wording in wordings if not needed or ("{" in wording and "the clip" not in wording)]
    text = str(rng.choice(usable)).format(where=where, item=named)
    return text.replace("colour", "color") if rng.random() < 0.35 else text


def vary(rng: np.random.Generator, text: str) -> str:
    """`text` as people write: with a greeting, without a question mark, in small letters."""
    if rng.random() < 0.15:
        text = str(rng.choice(OPENINGS)) + (text if rng.random() < 0.5 else text[0].lower() + text[1:])
    if rng.random() < 0.1:
        text = text.rstrip("?.")
    if rng.random() < 0.12:
        text = text + str(rng.choice(ENDINGS))
    if rng.random() < 0.08:
        text = text.lower()
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def random_conversation(
    rng: np.random.Generator, items: Sequence[Subject], turns: int, wide: bool = False
) -> Conversation:
    """`turns` questions and answers; most of the media come with the first, some later."""
    arrival = sorted(_arrival(rng, place, turns) for place in range(len(items)))
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": str(rng.choice(SYSTEM_MESSAGES))})
    for turn in range(turns):
        seen = [item for item, when in zip(items, arrival, strict=True) if when <= turn]
        fresh = [item for item, when in zip(items, arrival, strict=True) if when == turn]
        exchange = _exchange(rng, seen, len(seen) - len(fresh) if fresh else 0, wide)
        media: list[dict[str, str]] = [{"type": PART[item.noun]} for item in fresh]
        words = {"type": "text", "text": exchange.question}
        content = [words, *media] if rng.random() < 0.2 else [*media, words]
        messages.append({"role": "user", "content": content if media else exchange.question})
        messages.append({"role": "assistant", "content": exchange.answer})
    return Conversation(messages, tuple(items))


def _arrival(rng: np.random.Generator, place: int, turns: int) -> int:
    """The turn with which an item comes."""
    if place == 0 or turns == 1 or rng.random() < 0.8:
        return 0
    return int(rng.integers(1, turns))


def random_sheet(rng: np.random.Generator, items: Sequence[Subject], questions: int, wide: bool = False) -> Sheet:
    """`questions` questions on `items`, which all stand before each of them; `wide`: in all wordings that there are."""
    system = str(rng.choice(SYSTEM_MESSAGES)) if rng.random() < 0.1 else None
    return Sheet(system, tuple(_exchange(rng, items, 0, wide) for _ in range(questions)), tuple(items))


def _exchange(rng: np.random.Generator, items: Sequence[Subject], first_new: int, wide: bool) -> Turn:
    """A question and its true answer; now and then one that no item can answer."""
    chance = rng.random()
    if not items or chance < 0.1:
        return Turn(random_other(rng, wide), UNKNOWN, None)
    number = int(rng.integers(first_new, len(items)))
    known = items[number].questions()
    if chance < 0.15:
        known = tuple(question for question in Question if all(question not in item.questions() for item in items))
        known = known or items[number].questions()
        if Question.LENGTH in known and any(item.clip_s is not None for item in items):
            known = items[number].questions()
    question = Question(rng.choice(known))
    wordings = [random_wording(rng, question, wide)] if rng.random() < COMPOSED else TRAINED[question]
    text, told = vary(rng, phrase(rng, wordings, items, number, question)), answer(question, items[number])
    return Turn(text, told, number if question in items[number].questions() else None)


def random_corpus(rng: np.random.Generator, count: int) -> list[str]:
    """Texts in the words of the demo, for its tokenizer."""
    wordings = [text for texts in TRAINED.values() for text in texts]
    nouns = [f"the {ordinal} {word}" for ordinal in ORDINALS for words in SYNONYMS.values() for word in words]
    questions = list(Question)
    wordings += [random_wording(rng, questions[rng.integers(len(questions))]) for _ in wordings]
    asked = [
        vary(rng, str(rng.choice(wordings)).format(where=f" in {(noun := rng.choice(nouns))}", item=noun))
        for _ in range(count)
    ]
    others = [random_other(rng) for _ in range(count // 4)]
    answers = [describe(Subject(random_scene(rng), random_sound(rng), clip_s=1.0)) for _ in range(count // 4)]
    words = [str(word) for words in (Colour, Shape, Direction, Pitch) for word in words] + [
        UNKNOWN,
        *ROLES,
        "short",
        "long",
    ]
    return asked + others + answers + words * (count // 20)
