import asyncio

import pytest

from benchmarks.kit.load.arrivals import ClosedLoop
from benchmarks.kit.load.drive import LoadPlan, drive
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.servers import monolith

PROMPT_TOKENS_AT_LEAST = {"48x32=1": 10, "64x48@1s=1": 10, "sound@1s=1": 25, "text=1": 30}


@pytest.fixture(scope="module")
def baseline():
    with monolith() as server:
        yield server


@pytest.mark.parametrize("mix", PROMPT_TOKENS_AT_LEAST)
def test_the_baseline_answers_every_kind_to_the_length_asked_for(baseline, mix):
    plan = LoadPlan(baseline.url, ClosedLoop(2, 0.2), WorkloadSpec(mix=mix, max_tokens=3))
    outcomes, _ = asyncio.run(drive(plan))
    assert {(outcome.verdict, outcome.reason, outcome.tokens) for outcome in outcomes} == {("answered", "", 3)}
    assert all(outcome.prompt_tokens >= PROMPT_TOKENS_AT_LEAST[mix] for outcome in outcomes)
