"""The committed checkpoint: small, loadable, and right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deployments.demo import CHECKPOINT_DIR
from deployments.demo.dialogue.truth import UNKNOWN, Question, Subject, answer
from deployments.demo.evaluation.cases import make_cases, make_file
from deployments.demo.evaluation.decoding import Decoded, decode
from deployments.demo.evaluation.offline import Offline
from deployments.demo.probe import RADII, make_probes, wrong_answers
from deployments.demo.synth.grounds import GroundKind
from deployments.demo.synth.scenes import REVERSED, Colour, Direction, random_scene
from deployments.demo.synth.sounds import random_sound


@pytest.fixture(scope="module")
def offline() -> Offline:
    torch.set_num_threads(1)
    return Offline(CHECKPOINT_DIR)


def test_the_checkpoint_is_at_most_ten_megabytes() -> None:
    assert sum(file.stat().st_size for file in CHECKPOINT_DIR.iterdir()) <= 10_000_000


def test_known_media_get_true_answers(offline: Offline) -> None:
    def ask(file, question: str) -> str:  # type: ignore[no-untyped-def]
        return offline.answers_on([file.part], [decode(file, 8, with_sound=False)], [question])[0]

    assert wrong_answers(make_probes(seed=1, rounds=4), ask) == []


def test_two_items_of_one_kind_are_told_apart(offline: Offline) -> None:
    for case in make_cases(seed=5, files=3):
        if len(case.files) == 2 and case.files[0].part == case.files[1].part:
            asks = tuple(ask for ask in case.asks if ask.question in ("colour", "direction", "tone"))
            assert offline.answers(replace(case, asks=asks)) == [ask.truth for ask in asks]


@pytest.mark.parametrize("question", ["What do you see?", "what can you see"])
def test_an_open_question_gets_the_description(offline: Offline, question: str) -> None:
    rng = np.random.default_rng(6)
    for kind in (GroundKind.DARK, GroundKind.WHITE):
        for clip_s in (None, 1.6):
            direction = Direction.STILL if clip_s is None else None
            item = Subject(random_scene(rng, Colour.RED, None, direction, kind, RADII), clip_s=clip_s)
            file = make_file(rng, item)
            described = answer(Question.DESCRIPTION, item)
            media = [decode(file, 8, with_sound=False)]
            assert offline.answers_on([file.part], media, [question]) == [described]


def test_beeps_of_every_number_are_counted(offline: Offline) -> None:
    rng = np.random.default_rng(7)
    for number in range(40):
        file = make_file(rng, Subject(sound=random_sound(rng, beeps=1 + number % 4)))
        media = [decode(file, 8, with_sound=False)]
        assert offline.answers_on(["audio"], media, ["How many beeps do you hear?"]) == [str(1 + number % 4)]


def test_a_clip_played_backwards_moves_the_other_way(offline: Offline) -> None:
    for probe in make_probes(seed=2, rounds=4):
        if probe.question == "Which way does it move?":
            media = decode(probe.file, 8, with_sound=False)
            assert media.frames_THWC is not None
            backwards = Decoded(np.ascontiguousarray(media.frames_THWC[::-1]), media.fps)
            got = offline.answers_on(["video"], [backwards], [probe.question])[0]
            assert got == {str(way): str(other) for way, other in REVERSED.items()}[probe.truth]


def test_what_it_cannot_know_gets_the_honest_reply(offline: Offline) -> None:
    questions = ["What is the capital of France?", "Hello!", "How many beeps do you hear?"]
    assert offline.answers_on([], [], questions) == [UNKNOWN] * 3


def test_evaluation_asks_every_question_of_every_kind_of_request() -> None:
    cases = list(make_cases(seed=3, files=2))
    groups = {ask.group for case in cases for ask in case.asks}
    assert len(groups) == 8
    assert {case.num_frames for case in cases if len(case.files) == 1 and case.files[0].part == "video"} == {8, 16}
    assert all(any(ask.held_out for ask in case.asks) for case in cases)
