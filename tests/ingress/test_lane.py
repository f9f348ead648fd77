"""Admission keeps its bounds, takes clients in turn, leaks nothing, and refuses at once what it can't do in time."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.core.deadline import Deadline
from deployments.errors import Overloaded, StageTimeout
from deployments.ingress.admission.concurrency_limit import START
from deployments.ingress.admission.lane import AdmissionQueue
from deployments.ingress.admission.lease import Lease
from tests.ingress.lanes import ask, granted, make_lane, settle


async def refused(*asked: "asyncio.Task[Lease]") -> list[Overloaded]:
    """The refusals of those among `asked` that were not let in at once."""
    await settle()
    errors = [task.exception() for task in asked if task.done()]
    return [error for error in errors if isinstance(error, Overloaded)]


async def test_what_fits_runs_at_once_and_what_does_not_waits_for_room() -> None:
    lane, _ = make_lane(running=2)
    first, second = await granted(ask(lane)), await granted(ask(lane))
    third = ask(lane)
    await settle()
    assert (lane.running, lane.waiting) == (2, 1)
    first.release()
    (await granted(third)).release()
    second.release()
    assert (lane.running, lane.waiting) == (0, 0)


async def test_bytes_bound_what_runs_too() -> None:
    lane, _ = make_lane(running=10, max_bytes=100)
    first = await granted(ask(lane, size=60))
    second = ask(lane, size=60)
    await settle()
    assert lane.budget.held_bytes == 60
    first.resize(40)
    assert (await granted(second)).size_bytes == 60


async def test_a_request_larger_than_the_lane_runs_alone() -> None:
    lane, _ = make_lane(running=10, max_bytes=100)
    small = await granted(ask(lane, size=1))
    large = ask(lane, size=1000)
    await settle()
    assert not large.done()
    small.release()
    assert (await granted(large)).size_bytes == 100


async def test_a_small_request_does_not_pass_a_large_one_that_waits() -> None:
    lane, _ = make_lane(running=10, max_bytes=100)
    first = await granted(ask(lane, "a", size=60))
    large, small = ask(lane, "b", size=90), ask(lane, "c", size=10)
    await settle()
    assert not large.done()
    assert not small.done()
    first.release()
    await granted(large)
    await granted(small)


async def test_clients_take_turns_whatever_the_length_of_their_queues() -> None:
    lane, clock = make_lane(running=1, waiting=30)
    order: list[str] = []

    async def work(client: str) -> None:
        with await lane.acquire(client, 0, Deadline(60, "admission")):
            order.append(client)
            await asyncio.sleep(0)
            clock.now += 1.0

    await asyncio.gather(*(work("greedy") for _ in range(20)), work("modest"), work("modest"))
    assert {position for position, client in enumerate(order) if client == "modest"} <= {1, 2, 3, 4}


async def test_a_full_queue_refuses_the_client_that_fills_it_and_takes_others() -> None:
    lane, clock = make_lane(waiting=4)
    holder = await granted(ask(lane, "greedy"))
    greedy = [ask(lane, "greedy") for _ in range(4)]
    await settle()
    with pytest.raises(Overloaded) as refusal:
        await ask(lane, "greedy")
    assert refusal.value.retry_after_s is not None
    modest = ask(lane, "modest")
    await settle()
    with pytest.raises(Overloaded):
        await greedy[-1]
    assert lane.waiting == 4
    clock.now += 1.0
    holder.release()
    (await granted(modest)).release()
    (await granted(greedy[0])).release()


async def test_one_client_cannot_hold_more_than_its_share() -> None:
    lane, _ = make_lane(running=4, per_client=2)
    held = [await granted(ask(lane, "a")) for _ in range(2)]
    third, other = ask(lane, "a"), ask(lane, "b")
    await granted(other)
    assert not third.done()
    held[0].release()
    await granted(third)


async def test_a_client_at_its_limit_makes_nobody_else_wait() -> None:
    lane, clock = make_lane(running=4, per_client=1, wait_s=5.0)
    await granted(ask(lane, "a"))
    ask(lane, "a")
    await settle()
    clock.now += 100.0
    assert lane.expected_wait_s("b") == 0.0
    assert lane.expected_wait_s("a") > 5.0
    await granted(ask(lane, "b"))


async def test_one_that_leaves_the_queue_makes_room_for_those_behind() -> None:
    lane, _ = make_lane(running=10, max_bytes=100)
    await granted(ask(lane, "a", size=60))
    large, small = ask(lane, "b", size=90), ask(lane, "c", size=10)
    await settle()
    large.cancel()
    await granted(small)
    assert lane.waiting == 0


async def test_a_lease_granted_to_one_that_has_just_left_is_given_back() -> None:
    lane, _ = make_lane()
    first = await granted(ask(lane))
    second = ask(lane)
    await settle()
    first.release()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert (lane.running, lane.waiting) == (0, 0)


async def test_a_request_whose_time_ends_in_the_queue_gets_a_timeout() -> None:
    lane, _ = make_lane()
    await granted(ask(lane))
    with pytest.raises(StageTimeout, match="admission"):
        await ask(lane, seconds=0.05)
    assert lane.waiting == 0


async def test_a_request_that_waits_too_long_is_told_to_come_back() -> None:
    lane, _ = make_lane(wait_s=0.05)
    await granted(ask(lane))
    with pytest.raises(Overloaded):
        await ask(lane)
    assert lane.waiting == 0


async def test_the_pace_of_the_queue_is_measured_and_hopeless_requests_are_refused_at_once() -> None:
    lane, clock = make_lane(running=2, waiting=100)
    for _ in range(20):
        pair = [await granted(ask(lane)) for _ in range(2)]
        clock.now += 4.0
        for lease in pair:
            lease.release()
    for _ in range(2):
        await granted(ask(lane))
    assert lane.expected_wait_s("a") == pytest.approx(2.0)  # two at once, four seconds each: one leaves each 2 s
    ask(lane, "a")
    ask(lane, "a")
    await settle()
    assert lane.expected_wait_s("a") == pytest.approx(6.0)
    assert lane.expected_wait_s("b") == pytest.approx(2.0)  # who has taken nothing yet comes first
    assert lane.retry_after_s() == pytest.approx(6.0)
    with pytest.raises(Overloaded, match="6 s"):
        await ask(lane, "a", seconds=5.0)
    assert lane.waiting == 2


async def test_those_who_wait_are_sent_away_as_soon_as_the_lane_proves_too_slow_for_them() -> None:
    lane, clock = make_lane(running=1, waiting=100, wait_s=3.0)
    first = await granted(ask(lane))
    waiting = [ask(lane) for _ in range(10)]
    await settle()
    clock.now += 4.0
    first.release()
    await settle()
    refused = [task for task in waiting if task.done() and task.exception() is not None]
    assert refused == waiting[8:]  # one runs, seven can be done in 28 s; eleven times 3 s are allowed, 4 s are over
    assert all(isinstance(task.exception(), Overloaded) for task in refused)
    assert lane.waiting == 7


async def test_a_burst_is_let_in_and_an_overload_is_not() -> None:
    lane, clock = make_lane(waiting=100, wait_s=1.0, burst_s=10.0)
    first = await granted(ask(lane))
    clock.now += 1.0
    first.release()  # the lane serves one a second
    running = await granted(ask(lane))
    burst = [ask(lane) for _ in range(12)]
    await settle()
    assert [task.done() for task in burst] == [False] * 10 + [True] * 2
    for task in burst[:10]:
        clock.now += 1.0
        running.release()
        running = await granted(task)
        await refused(ask(lane), ask(lane), ask(lane))
    assert lane.waiting <= 1  # ten seconds with a queue: it is short from now on
    await refused(*burst[10:])


@pytest.mark.parametrize(("max_ttft_s", "let_in"), [(None, 10), (4.0, 4), (0.5, 3)])
async def test_nobody_waits_for_a_first_token_that_comes_too_late(max_ttft_s: float | None, let_in: int) -> None:
    lane, clock = make_lane(waiting=100, wait_s=1.0, burst_s=10.0, target_s=0.5, max_ttft_s=max_ttft_s)
    first = await granted(ask(lane))
    clock.now += 1.0
    first.release()  # the lane serves one a second, which is what the work takes: three times that is never too late
    await granted(ask(lane))
    burst = [ask(lane) for _ in range(12)]
    assert len(await refused(*burst)) == 12 - let_in
    assert lane.waiting == let_in


async def test_those_who_are_sent_away_are_told_to_come_back_one_after_the_other() -> None:
    lane, clock = make_lane(wait_s=1.0)
    first = await granted(ask(lane))
    clock.now += 2.0
    first.release()  # the lane serves one in two seconds
    second = await granted(ask(lane))
    errors = await refused(*(ask(lane) for _ in range(3)))
    assert [error.retry_after_s for error in errors] == pytest.approx([2.0, 4.0, 6.0])
    clock.now += 2.0
    second.release()
    await granted(ask(lane))
    clock.now += 2.0
    [later] = await refused(ask(lane))
    assert later.retry_after_s == pytest.approx(4.0)  # the first two have had their turns


async def test_what_was_learnt_under_load_is_not_forgotten_at_ease() -> None:
    lane, clock = make_lane(running=2)
    running = [await granted(ask(lane)) for _ in range(2)]
    waiting = [ask(lane) for _ in range(2)]
    await settle()
    for _ in range(2):
        clock.now += 4.0
        running.pop(0).release()
        running.append(await granted(waiting.pop(0)))
    clock.now += 4.0
    for lease in running:
        lease.release()
    lone = await granted(ask(lane))
    clock.now += 0.1
    lone.release()
    for _ in range(2):
        await granted(ask(lane))
    assert lane.expected_wait_s("a") == pytest.approx(4.0)


async def test_a_request_that_would_be_reached_in_time_but_not_answered_is_refused() -> None:
    lane, clock = make_lane(running=START, target_s=10.0)
    running = [await granted(ask(lane)) for _ in range(START)]
    for _ in range(5 * START):
        clock.now += 0.5
        running.pop(0).first_token()
        running.append(await granted(ask(lane)))
    assert lane.expected_wait_s("a") == pytest.approx(0.5)
    lane.check("a", 0, Deadline(1 + 0.5 * START, "admission"))
    with pytest.raises(Overloaded):
        lane.check("a", 0, Deadline(0.5 * START, "admission"))


async def test_the_first_token_makes_room_and_the_client_still_counts() -> None:
    lane, _ = make_lane(running=1, per_client=1)
    answering = await granted(ask(lane, "a"))
    answering.first_token()
    again, other = ask(lane, "a"), ask(lane, "b")
    (await granted(other)).release()
    assert not again.done()
    assert (lane.running, lane.admitted) == (0, 1)
    answering.release()
    await granted(again)


async def test_slow_media_hosts_do_not_narrow_the_lane() -> None:
    lane, clock = make_lane(running=100, target_s=1.0)
    for _ in range(50):
        lease = await granted(ask(lane))
        clock.now += 30.0
        lease.outside_s = 29.9
        lease.first_token()
        lease.release()
    assert lane.max_running == START


async def test_quick_failures_do_not_widen_the_lane() -> None:
    lane, clock = make_lane(running=100, target_s=1.0)
    for _ in range(50):
        running = [await granted(ask(lane)) for _ in range(lane.max_running)]
        clock.now += 0.01
        for lease in running:
            lease.release()
    assert lane.max_running == START


async def test_a_lane_that_nobody_leaves_looks_slower_and_slower() -> None:
    lane, clock = make_lane()
    await granted(ask(lane))
    clock.now = 30.0
    assert lane.expected_wait_s("a") == pytest.approx(30.0)


async def test_a_larger_share_lets_in_those_who_wait() -> None:
    lane, _ = make_lane(running=5, max_bytes=100)
    await granted(ask(lane, size=100))
    second = ask(lane, size=50)
    await settle()
    lane.budget.set_max_bytes(200)
    await granted(second)


requests = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.integers(0, 150), st.integers(0, 4), st.sampled_from(["work", "fail", "leave"])
    ),
    max_size=40,
)


@given(requests, st.integers(1, 4), st.integers(1, 10), st.sampled_from([None, 1, 2]))
@settings(max_examples=60, deadline=None)
def test_bounds_hold_nobody_starves_and_nothing_leaks(
    plan: list[tuple[str, int, int, str]], running: int, waiting: int, per_client: int | None
) -> None:
    asyncio.run(_run_plan(plan, running, waiting, per_client))


async def _run_plan(plan: list[tuple[str, int, int, str]], running: int, waiting: int, per_client: int | None) -> None:
    lane, _ = make_lane(running, waiting, max_bytes=100, per_client=per_client)
    inside: list[tuple[str, int]] = []
    outcomes: list[str] = []

    async def one(client: str, size: int, steps: int, end: str) -> None:
        try:
            with await lane.acquire(client, size, Deadline(60, "admission")):
                inside.append((client, min(size, 100)))
                try:
                    assert len(inside) <= running
                    assert sum(held for _, held in inside) <= 100
                    assert per_client is None or sum(1 for name, _ in inside if name == client) <= per_client
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    if end == "fail":
                        raise ValueError
                finally:
                    inside.remove((client, min(size, 100)))
        except Overloaded:
            outcomes.append("refused")
        except ValueError:
            outcomes.append("failed")
        else:
            outcomes.append("done")

    tasks = [asyncio.create_task(one(*request)) for request in plan]
    for task, (_, _, steps, end) in zip(tasks, plan, strict=True):
        if end == "leave":
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
    async with asyncio.timeout(10):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
    assert len(outcomes) + sum(isinstance(result, asyncio.CancelledError) for result in results) == len(plan)
    assert (lane.running, lane.waiting, lane.budget.held_bytes) == (0, 0, 0)


# ── background ───────────────────────────────────────────────────────────────────────────────────────────────────────


def ask_background(lane: AdmissionQueue, client: str = "batch", size: int = 0) -> "asyncio.Task[Lease]":
    return asyncio.create_task(lane.acquire_background(client, size, Deadline(60.0, "admission")))


async def test_the_background_has_half_of_the_places_and_takes_none_from_others() -> None:
    lane, _ = make_lane(running=4)
    background = [ask_background(lane) for _ in range(4)]
    await settle()
    assert [task.done() for task in background] == [True, True, False, False]
    others = [await granted(ask(lane)) for _ in range(4)]
    waiting = ask(lane)
    background[0].result().release()
    await settle()
    assert (lane.running, lane.background_running) == (4, 1)  # somebody waits: nothing for the background
    others[0].release()
    (await granted(waiting)).release()
    assert not background[2].done()
    others[1].release()
    others[2].release()
    await granted(background[2])


async def test_the_background_is_not_refused_but_waits_until_its_time_is_over() -> None:
    lane, _ = make_lane(running=1, waiting=1, wait_s=0.01)
    await granted(ask(lane))
    tasks = [ask_background(lane) for _ in range(20)]
    await settle()
    assert not any(task.done() for task in tasks)
    with pytest.raises(Overloaded, match="background"):
        await lane.acquire_background("late", 0, Deadline(0.02, "admission"))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert lane.admitted == 1


steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "background", "first token", "end", "leave"]), st.integers(0, 120), st.integers(0, 9)
    ),
    max_size=60,
)


@given(steps, st.integers(1, 6), st.sampled_from([None, 1, 2]))
@settings(max_examples=150, deadline=None)
def test_nobody_waits_behind_the_background(
    plan: list[tuple[str, int, int]], running: int, per_client: int | None
) -> None:
    asyncio.run(_beside_the_background(plan, running, per_client))


async def _beside_the_background(plan: list[tuple[str, int, int]], running: int, per_client: int | None) -> None:
    """Two lanes see the same requests, one of them beside a background of text: what is granted to whom is the same."""
    beside, _ = make_lane(running, waiting=100, per_client=per_client)
    alone, _ = make_lane(running, waiting=100, per_client=per_client)
    pairs: list[tuple[asyncio.Task[Lease], asyncio.Task[Lease]]] = []
    background: list[asyncio.Task[Lease]] = []
    for what, size, which in plan:
        if what == "ask":
            pairs.append((ask(beside, "abc"[which % 3], size), ask(alone, "abc"[which % 3], size)))
        elif what == "background":
            background.append(ask_background(beside, "abc"[which % 3]))
        for task in [*(pairs[which] if which < len(pairs) else ()), *background[which : which + 1]]:
            if what == "first token" and task.done() and not task.cancelled():
                task.result().first_token()
            elif what == "end" and task.done() and not task.cancelled():
                task.result().release()
            elif what == "leave" and not task.done():
                task.cancel()
        before = beside.background_running
        await settle()
        assert [one.done() for one, _ in pairs] == [other.done() for _, other in pairs]
        assert beside.background_running <= max(1, running // 2)
        if before < beside.background_running:
            assert beside.running + beside.background_running <= running
    for task in [*background, *(task for pair in pairs for task in pair)]:
        task.cancel()
        if task.done() and not task.cancelled():
            task.result().release()
    await settle()
    assert (beside.running, beside.background_running, beside.budget.held_bytes, beside.admitted) == (0, 0, 0, 0)
