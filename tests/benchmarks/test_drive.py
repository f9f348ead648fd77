import asyncio
import json

import pytest

from benchmarks.kit.load.arrivals import ClosedLoop, OpenLoop
from benchmarks.kit.load.drive import LoadPlan, drive, run_load
from benchmarks.kit.load.workload import WorkloadSpec
from tests.benchmarks.fake_openai import FakeServer

TEXT = WorkloadSpec(mix="text", max_tokens=8)
BRIEF = OpenLoop(rate=40, duration_s=0.3)


async def drive_fake(behaviour="answer", arrivals=BRIEF, **more):
    fake = FakeServer(behaviour, **{key: more.pop(key) for key in ("tokens", "pause_s") if key in more})
    async with fake.serving():
        outcomes, probes = await drive(LoadPlan(fake.url, arrivals, TEXT, **more))
    return fake, outcomes, probes


async def test_an_answer_is_timed_by_its_text_and_counted_by_its_usage():
    _, outcomes, _ = await drive_fake(pause_s=0.02)
    assert outcomes
    for outcome in outcomes:
        assert (outcome.verdict, outcome.tokens, outcome.prompt_tokens) == ("answered", 8, 11)
        assert outcome.due_s <= outcome.sent_s < outcome.first_text_s < outcome.last_text_s <= outcome.ended_s
        assert outcome.first_text_s - outcome.sent_s >= 0.02  # the empty role piece before it is no text


async def test_an_open_loop_sends_on_schedule_although_nothing_is_answered():
    arrivals = OpenLoop(rate=40, duration_s=0.5)
    fake, outcomes, _ = await drive_fake(arrivals=arrivals, pause_s=5, timeout_s=1)
    assert [outcome.due_s for outcome in outcomes] == list(arrivals.due_s(TEXT.seed))
    assert fake.most_running == len(outcomes)
    assert {outcome.verdict for outcome in outcomes} == {"gave_up"}


async def test_a_closed_loop_keeps_to_its_concurrency():
    fake, outcomes, _ = await drive_fake(arrivals=ClosedLoop(concurrency=3, duration_s=0.3), pause_s=0.01)
    assert len(outcomes) > 3
    assert fake.most_running == 3


async def test_a_user_of_a_closed_loop_asks_the_same_again_when_told_to_and_waits_since_the_first_time():
    fake, outcomes, _ = await drive_fake("busy once", ClosedLoop(concurrency=1, duration_s=1.2))
    refused, answered, *_ = outcomes
    assert (refused.verdict, answered.verdict) == ("refused", "answered")
    assert fake.bodies[0] == fake.bodies[1]
    assert answered.due_s == refused.due_s
    assert answered.sent_s - refused.sent_s >= 1
    assert answered.ttft_s > 1


async def test_a_user_of_a_closed_loop_does_not_wait_beyond_its_end():
    _, outcomes, _ = await drive_fake("429", ClosedLoop(concurrency=2, duration_s=0.2))
    assert [outcome.verdict for outcome in outcomes] == ["refused"] * 2


@pytest.mark.parametrize(
    ("behaviour", "verdict", "reason"),
    [
        ("429", "refused", "http 429"),
        ("503", "refused", "http 503"),
        ("504", "expired", "http 504"),
        ("500", "failed", "http 500"),
        ("400", "failed", "http 400"),
        ("truncate", "failed", "truncated stream"),
        ("no end", "failed", "truncated stream"),
        ("reset", "failed", "ClientPayloadError"),
        ("event:timeout", "expired", "stream error: timeout"),
        ("event:internal_error", "failed", "stream error: internal_error"),
    ],
)
async def test_each_way_not_to_answer_has_its_verdict(behaviour, verdict, reason):
    _, outcomes, _ = await drive_fake(behaviour)
    assert {(outcome.verdict, outcome.reason) for outcome in outcomes} == {(verdict, reason)}
    assert {outcome.retry_after for outcome in outcomes} == {"7" if verdict == "refused" else None}


@pytest.mark.parametrize(("behaviour", "verdict"), [("no end", "answered"), ("truncate", "failed")])
async def test_a_server_that_never_says_done_has_to_say_why_it_finished(behaviour, verdict):
    fake = FakeServer(behaviour)
    async with fake.serving():
        outcomes, _ = await drive(LoadPlan(fake.url, OpenLoop(rate=40, duration_s=0.2), TEXT, says_done=False))
    assert {outcome.verdict for outcome in outcomes} == {verdict}


async def test_an_answer_without_text_begins_when_it_ends():
    _, outcomes, _ = await drive_fake(tokens=0)
    assert all(outcome.verdict == "answered" and outcome.ttft_s is not None for outcome in outcomes)


async def test_health_is_probed_while_the_load_runs():
    _, _, probes = await drive_fake(arrivals=OpenLoop(rate=10, duration_s=0.6), pause_s=0.1)
    assert len(probes) >= 5
    assert all(probe.ok for probe in probes)
    _, _, probes = await drive_fake("unhealthy")
    assert not any(probe.ok for probe in probes)


async def test_media_by_url_can_be_fetched_from_the_host_in_its_own_process():
    fake = FakeServer()
    spec = WorkloadSpec(mix="48x32=1", transport="url")
    async with fake.serving():
        await drive(LoadPlan(fake.url, OpenLoop(rate=30, duration_s=0.3), spec))
    urls = [body["messages"][0]["content"][0]["image_url"]["url"] for body in fake.bodies]
    assert len(set(urls)) == len(urls) > 0
    assert all(url.startswith("http://127.0.0.1:") for url in urls)


async def test_a_run_in_its_own_process_brings_back_plain_figures():
    async with FakeServer().serving() as fake:
        plan = LoadPlan(fake.url, OpenLoop(rate=20, duration_s=0.5), TEXT)
        figures = await asyncio.to_thread(run_load, plan)
    assert figures["verdicts"]["answered"] == figures["sent"] == len(fake.bodies)
    assert json.loads(json.dumps(figures)) == figures
