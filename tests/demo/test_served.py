"""The running application tells the truth: a fault anywhere between the file and the token makes a wrong answer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from deployments.demo.dialogue.truth import Question
from deployments.demo.evaluation.cases import Ask, Case, make_cases
from deployments.demo.evaluation.served import Served
from deployments.demo.probe import make_probes
from tests.support.application import RunningApp

TELLING = (Question.COLOUR, Question.DIRECTION, Question.TONE)
"""Asked of the pairs."""


def test_single_requests_get_true_answers(app: RunningApp) -> None:
    served = Served(app.url, together=1)
    for case in [*_probes(rounds=1), *_pairs(files=1)]:
        assert served.answers(case) == _truths(case)


def test_forty_mixed_requests_at_a_time_get_true_answers(app: RunningApp) -> None:
    served = Served(app.url, together=40)
    cases = ([*_pairs(files=2), *_probes(rounds=8)])[:40]
    with ThreadPoolExecutor(len(cases)) as pool:
        answers = list(pool.map(served.answers, cases))
    assert len(cases) == 40
    assert answers == [_truths(case) for case in cases]


def _probes(rounds: int) -> Iterator[Case]:
    """One file and one question each."""
    for probe in make_probes(seed=1, rounds=rounds):
        yield Case((probe.file,), (Ask("", "", probe.question, probe.truth, held_out=False),), num_frames=8)


def _pairs(files: int) -> Iterator[Case]:
    """Two files of one kind, and one question about one of them."""
    for case in make_cases(seed=1, files=files):
        if len(case.files) == 2 and case.files[0].part == case.files[1].part:
            asks = [ask for ask in case.asks if ask.question in map(str, TELLING) and not ask.held_out]
            yield from (replace(case, asks=(ask,)) for ask in asks)


def _truths(case: Case) -> list[str]:
    return [ask.truth for ask in case.asks]
