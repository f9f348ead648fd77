"""Servers under comparison each begin a run calm."""

from benchmarks.kit.load.arrivals import OpenLoop
from benchmarks.kit.load.outcome import Slo
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.servers import Server
from benchmarks.kit.turns import Turns
from tests.benchmarks.fake_openai import FakeServer

TEXTS = WorkloadSpec(mix="text", max_tokens=4)


class Busy(Server):
    """Answers too late until it is started again."""

    def __init__(self, fake: FakeServer) -> None:
        super().__init__("busy", fake.url)
        self.fake = fake

    def restart(self) -> None:
        self.fake.pause_s = 0.0


def test_a_server_that_goes_on_with_abandoned_requests_is_started_again(serve_fake):
    fake = serve_fake(FakeServer(pause_s=2.0))
    turns = Turns([Busy(fake)], timeout_s=0.5, slo=Slo(), settled_within_s=0.5)
    figures = turns.run(turns.servers[0], TEXTS, OpenLoop(10, 0.5), "overload")
    assert figures["verdicts"]["answered"] == 0
    assert turns.restarts == {}  # nothing comes after it
    figures = turns.run(turns.servers[0], TEXTS, OpenLoop(10, 0.5), "once more")
    assert figures["verdicts"]["answered"] == figures["sent"] > 0
    assert turns.restarts == {"busy": 1}
    assert "busy (1)" in turns.facts()


def test_a_server_that_answers_is_left_alone(serve_fake):
    turns = Turns([Server("quick", serve_fake(FakeServer()).url)], timeout_s=5, slo=Slo())
    figures = turns.run(turns.servers[0], TEXTS, OpenLoop(10, 0.5), "load")
    assert figures["verdicts"]["answered"] == figures["sent"] > 0
    assert turns.facts() == ""
