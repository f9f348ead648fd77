"""Questions put together from a beginning and what is asked for: many more wordings than anyone would write down.

They teach the model to listen to the word that matters, so that wordings which it never saw are understood as well.
"""

import numpy as np

from deployments.demo.dialogue.truth import Question

BEFORE_NOUNS = (
    "Find {0}{1}.",
    "Report {0}{1}.",
    "Guess {0}{1}.",
    "Identify {0}{1}.",
    "State {0}{1}.",
    "Show me {0}{1}.",
    "We need {0}{1}.",
    "I need {0}{1}, please.",
    "He asks about {0}{1}.",
    "My question is about {0}{1}.",
    "Let me know {0}{1}.",
    "What about {0}{1}?",
    "And what is {0}{1}?",
    "Tell us {0}{1}.",
    "Write down {0}{1}.",
    "Please check {0}{1}.",
    "Are you sure of {0}{1}?",
    "Do you see {0}{1}?",
    "Do you remember {0}{1}?",
    "She wants {0}{1}.",
    "I forgot {0}{1}.",
    "Please find out {0}{1}.",
    "It is important to know {0}{1}.",
    "All I ask for is {0}{1}.",
    "Please look for {0}{1}.",
    "{0}{1}, please.",
)
BEFORE_CLAUSES = (
    "Find out {0}{1}.",
    "Let me know {0}{1}.",
    "Do you remember {0}{1}?",
    "Did you notice {0}{1}?",
    "Can you see {0}{1}?",
    "She asks {0}{1}.",
    "I need to know {0}{1}.",
    "We want to hear {0}{1}.",
    "Explain {0}{1}.",
    "Guess {0}{1}.",
    "Please write {0}{1}.",
    "Does anybody know {0}{1}?",
    "Are you able to say {0}{1}?",
    "It is important to know {0}{1}.",
    "My question is {0}{1}.",
    "Have you an idea {0}{1}?",
    "Check {0}{1}, please.",
    "Who knows {0}{1}?",
    "I cannot tell {0}{1}, can you?",
)
NOUNS: dict[Question, tuple[str, ...]] = {
    Question.COLOUR: ("the colour", "its colour", "the colour of {0}", "the colour that {0} has", "the colours"),
    Question.SHAPE: ("the shape", "its shape", "the shape of {0}", "the form of {0}", "the shapes"),
    Question.DIRECTION: ("the direction", "its direction", "the direction of {0}", "the way that {0} moves"),
    Question.COLOUR_DIRECTION: (
        "the colour and the direction",
        "its colour and its direction",
        "the colour of {0} and the way it moves",
        "the colour and the direction of {0}",
    ),
    Question.LENGTH: ("the length", "its length", "the duration", "the length of it"),
    Question.TONE: ("the pitch", "its pitch", "the pitch of the tone", "the pitch of the beeps", "the tone"),
    Question.BEEPS: ("the number of beeps", "the number of tones", "the count of beeps", "how many beeps"),
    Question.DESCRIPTION: (
        "a description",
        "a short description",
        "one sentence on what happens",
        "a full description",
    ),
}
CLAUSES: dict[Question, tuple[str, ...]] = {
    Question.COLOUR: (
        "what colour {0} is",
        "which colour {0} has",
        "what colour it is",
        "what the colour is",
        "what colour {0} was given",
        "which colour was taken for {0}",
        "which colours there are",
        "what colours they have",
    ),
    Question.SHAPE: (
        "what shape {0} is",
        "which shape it has",
        "what shape it is",
        "what kind of shape that is",
        "what shapes there are",
        "which figures can be seen",
    ),
    Question.DIRECTION: ("which way {0} moves", "where {0} goes", "which direction it takes", "how it moves"),
    Question.COLOUR_DIRECTION: (
        "what colour {0} is and which way it moves",
        "what colour it has and where it goes",
        "which colour it is and what its direction is",
    ),
    Question.LENGTH: ("how long it is", "how long it lasts", "how much time it takes", "if it is long or short"),
    Question.TONE: ("how high the tone is", "if the tone is low or high", "whether the beeps are high or low"),
    Question.BEEPS: ("how many beeps there are", "how many tones you hear", "how often it beeps"),
    Question.DESCRIPTION: ("what happens", "what is to be seen or heard", "what there is"),
}
THINGS = ("the shape", "the object", "the figure", "the thing", "it", "this", "that")
CHOICES: dict[Question, tuple[str, ...]] = {
    Question.COLOUR: ("red", "blue", "yellow", "green", "purple", "white"),
    Question.SHAPE: ("a circle", "a square", "a triangle"),
    Question.DIRECTION: ("left", "right", "up", "down"),
    Question.TONE: ("high", "low"),
}
BEFORE_CHOICES: dict[Question, tuple[str, ...]] = {
    Question.COLOUR: ("Is {0} {1}{2}?", "Would you say that {0} is {1}{2}?", "Is {0} painted {1}{2}?"),
    Question.SHAPE: ("Is {0} {1}{2}?", "Is there {1}{2}?", "Do you see {1}{2}?", "Would you call {0} {1}{2}?"),
    Question.DIRECTION: ("Does {0} go {1}{2}?", "Does {0} move {1}{2}?", "Is {0} moving {1}{2}?"),
    Question.TONE: ("Is the pitch {1}{2}?", "Are the tones {1}{2}?", "Is the beep {1}{2}?"),
}

WIDE_CHOICES = (
    "{1}{2}?",
    "Is that {1}{2}?",
    "Was it {1}{2}?",
    "Is {0} rather {1}{2}?",
    "Was {0} {1}{2}?",
    "Choose: {1}{2}.",
    "Which one{2}: {1}?",
    "Which of these{2}: {1}?",
    "Pick one{2}: {1}.",
    "Say {1}{2}.",
    "Tell me: {1}{2}?",
    "Does it look {1}{2}?",
    "Did {0} turn {1}{2}?",
    "Is this {1}, would you say{2}?",
    "Is it getting {1}{2}?",
    "Is {0} coming {1}{2}?",
    "Is {0} heading {1}{2}?",
    "Is {0} turning {1}{2}?",
    "What is {0}{2}, {1}?",
    "I cannot see if it is {1}{2}.",
)
"""Of every question that has choices: the words of the choices are what tells it from the others."""


def random_wording(rng: np.random.Generator, question: Question, wide: bool = False) -> str:
    """A wording with a spot for `{where}`, in the style of `wordings.TRAINED`; `wide` uses all frames of choices."""
    chance = rng.random()
    if question in CHOICES and chance < (0.5 if wide else 0.2):
        options = [str(option) for option in rng.permutation(CHOICES[question])][: int(rng.integers(2, 5))]
        listed = ", ".join(options[:-1]) + f" or {options[-1]}"
        frames = (*BEFORE_CHOICES[question], *WIDE_CHOICES) if wide else BEFORE_CHOICES[question]
        text = _pick(rng, frames).format(_pick(rng, THINGS[:5]), listed, "{where}")
        return text[0].upper() + text[1:]
    frames, asked = (BEFORE_NOUNS, NOUNS) if chance < 0.6 else (BEFORE_CLAUSES, CLAUSES)
    thing = _pick(rng, THINGS)
    text = _pick(rng, frames).format(_pick(rng, asked[question]).format(thing), "{where}")
    return text[0].upper() + text[1:]


def _pick(rng: np.random.Generator, texts: tuple[str, ...]) -> str:
    return texts[rng.integers(len(texts))]
