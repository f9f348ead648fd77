"""The running application tells the truth: a fault anywhere between the file and the token makes a wrong answer."""

from concurrent.futures import ThreadPoolExecutor

from deployments.demo.evaluation.cases import Ask, Case
from deployments.demo.evaluation.served import Served
from deployments.demo.probe import Probe, make_probes
from tests.application import RunningApp


def test_single_requests_get_true_answers(app: RunningApp) -> None:
    served = Served(app.url, together=1)
    assert [_answer(served, probe) for probe in make_probes(seed=1)] == [probe.truth for probe in make_probes(seed=1)]


def test_forty_mixed_requests_at_a_time_get_true_answers(app: RunningApp) -> None:
    served, probes = Served(app.url), list(make_probes(seed=1, rounds=4)) * 2
    with ThreadPoolExecutor(len(probes)) as pool:
        answers = list(pool.map(lambda probe: _answer(served, probe), probes))
    assert len(probes) == 40
    assert answers == [probe.truth for probe in probes]


def _answer(served: Served, probe: Probe) -> str:
    ask = Ask("", "", probe.question, probe.truth, held_out=False)
    return served.answers(Case((probe.file,), (ask,), num_frames=8))[0]
