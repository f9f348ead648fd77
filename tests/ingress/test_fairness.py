"""Who has taken little of late goes before who has taken much, finds a place, and is not the one who is refused."""

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import Overloaded
from deployments.ingress.admission.client_usage import ABSENT_S, HALF_LIFE_S, MOST_CLIENTS, ClientUsage
from deployments.ingress.admission.heavy_places import DOUBLED_IN_S, SAMPLES
from deployments.ingress.admission.lane import AdmissionQueue
from deployments.ingress.admission.lease import Lease
from tests.ingress import lanes
from tests.ingress.lanes import Clock, granted, settle

make_lane = partial(lanes.make_lane, wait_s=1000.0)
ask = partial(lanes.ask, seconds=3600.0)


async def take(lane: AdmissionQueue, clock: Clock, client: str, seconds: float) -> None:
    """A request of `client` comes, takes so long, and goes."""
    lease = await granted(ask(lane, client))
    clock.now += seconds
    lease.release()


async def test_one_long_request_counts_as_much_as_many_short_ones() -> None:
    lane, clock = make_lane()
    await take(lane, clock, "long", 10.0)
    for _ in range(4):
        await take(lane, clock, "short", 0.1)
    holder = await granted(ask(lane, "other"))
    first, second = ask(lane, "long"), ask(lane, "short")
    await settle()
    holder.release()
    (await granted(second)).release()
    (await granted(first)).release()


async def test_answers_side_by_side_count_each() -> None:
    lane, clock = make_lane(running=2)
    leases = [await granted(ask(lane, client)) for client in ("four", "one")]
    leases[0].answers = 4
    for lease in leases:
        lease.first_token()
    clock.now += 3.0
    for lease in leases:
        lease.release()
    holders = [await granted(ask(lane, "other")) for _ in range(2)]
    four, one = ask(lane, "four"), ask(lane, "one")
    await settle()
    holders[0].release()
    await granted(one)
    assert not four.done()


async def test_who_only_waited_for_others_inside_has_taken_nothing() -> None:
    lane, clock = make_lane()
    lease = await granted(ask(lane, "patient"))
    clock.now += 10.0
    lease.waited_s = 10.0
    lease.release()
    await take(lane, clock, "busy", 1.0)
    holder = await granted(ask(lane, "other"))
    busy, patient = ask(lane, "busy"), ask(lane, "patient")
    await settle()
    holder.release()
    await granted(patient)
    assert not busy.done()


async def test_a_full_queue_refuses_the_youngest_of_who_took_most() -> None:
    lane, clock = make_lane(waiting=3)
    await take(lane, clock, "heavy", 20.0)
    await take(lane, clock, "light", 0.1)
    holder = await granted(ask(lane, "other"))
    lights, older, younger = [ask(lane, "light")], ask(lane, "heavy"), ask(lane, "heavy")
    await settle()
    lights.append(ask(lane, "light"))
    with pytest.raises(Overloaded) as refusal:
        await younger
    assert refusal.value.retry_after_s is not None
    with pytest.raises(Overloaded):
        await ask(lane, "heavy")
    holder.release()
    for task in (*lights, older):
        (await granted(task)).release()


async def test_places_stay_free_for_who_takes_little() -> None:
    lane, clock = make_lane(running=4)
    await take(lane, clock, "light", 0.1)
    heavy = [await granted(ask(lane, "heavy")) for _ in range(2)]
    clock.now += 5.0
    for lease in heavy:
        lease.release()
    asked = [ask(lane, "heavy") for _ in range(4)]
    await settle()
    assert [task.done() for task in asked] == [True, True, False, False]
    await granted(ask(lane, "light"))
    await granted(ask(lane, "new"))


async def test_while_others_are_late_who_takes_much_has_one_place_and_later_more_again() -> None:
    lane, clock = make_lane(running=32, waiting=32, target_s=0.5)
    await take(lane, clock, "light", 0.1)
    running = [await granted(ask(lane, "heavy")) for _ in range(3)]
    clock.now += 1.0
    for _ in range(2 * SAMPLES):
        lease = await granted(ask(lane, "light"))
        clock.now += 2.0
        lease.first_token()
        lease.release()
    for lease in running:
        lease.release()
    asked = [ask(lane, "heavy") for _ in range(6)]
    await settle()
    assert [task.done() for task in asked] == [True] + [False] * 5
    for _ in range(3):
        clock.now += DOUBLED_IN_S / 2
        await take(lane, clock, "light", 0.01)
        clock.now += DOUBLED_IN_S / 2
    await take(lane, clock, "light", 0.01)
    await settle()
    assert 1 < sum(task.done() for task in asked) < 6


async def test_all_places_are_one_clients_that_is_alone() -> None:
    lane, clock = make_lane(running=4)
    for lease in [await granted(ask(lane, "only")) for _ in range(4)]:
        clock.now += 5.0
        lease.release()
    await take(lane, clock, "passing", 0.1)
    clock.now += ABSENT_S + 1
    for _ in range(2):
        leases = [await granted(ask(lane, "only")) for _ in range(4)]
        clock.now += 5.0
        for lease in leases:
            lease.release()


async def test_who_took_much_is_served_in_the_end_however_many_come_that_took_nothing() -> None:
    lane, clock = make_lane()
    await take(lane, clock, "heavy", 30.0)
    lease = await granted(ask(lane, "first"))
    heavy = ask(lane, "heavy")
    await settle()
    for number in range(300):
        newcomer = ask(lane, f"new {number}")
        await settle()
        clock.now += 1.0
        lease.release()
        await settle()
        if heavy.done():
            break
        lease = await granted(newcomer)
    (await granted(heavy)).release()


async def test_a_queue_of_those_who_take_much_makes_nobody_else_impatient() -> None:
    lane, clock = make_lane(running=2, waiting=100, wait_s=1.0, burst_s=10.0)
    await take(lane, clock, "light", 0.1)
    await take(lane, clock, "heavy", 3.0)
    running = await granted(ask(lane, "heavy"))
    for _ in range(20):
        waiting = ask(lane, "heavy")
        await settle()
        if waiting.done():
            break
        clock.now += 3.0
        running.release()
        running = await granted(waiting)
    with pytest.raises(Overloaded):
        await waiting
    lights = [ask(lane, "light") for _ in range(4)]  # one has the place that is kept, three can be reached in 9 s
    await settle()
    assert [task.done() for task in lights] == [True, False, False, False]
    for task in lights:
        (await granted(task)).release()
    running.release()


async def test_what_was_taken_is_forgotten_by_and_by() -> None:
    lane, clock = make_lane()
    usage = ClientUsage(clock)
    usage.begin(Lease(lane, "a", 0))
    had_s = usage.seconds("a")
    clock.now += 2 * HALF_LIFE_S
    assert usage.seconds("a") == pytest.approx(had_s / 4)
    clock.now += ABSENT_S
    usage.begin(Lease(lane, "b", 0))
    assert len(usage) == 1


async def test_no_more_clients_are_remembered_than_there_is_room_for() -> None:
    lane, clock = make_lane()
    usage = ClientUsage(clock)
    for number in range(MOST_CLIENTS + 10):
        usage.begin(Lease(lane, f"client {number}", 0))
    assert len(usage) == MOST_CLIENTS
    assert usage.seconds("client 0") == 0.0
    assert usage.seconds(f"client {MOST_CLIENTS}") > 0.0


@dataclass
class Siege:
    """A lane in simulated time: clients that ask again and again, and what became of their requests."""

    places: int
    waits_s: dict[str, list[float]] = field(default_factory=dict)
    refused_at: dict[str, list[float]] = field(default_factory=dict)
    busy_s: float = 0.0
    """Seconds of places taken."""

    async def run(self, clients: dict[str, tuple[int, float, float]], seconds: float) -> None:
        """`clients`: of each, how many ask at once, what a request takes, and the pause between two."""
        lane, clock = make_lane(self.places, waiting=16, wait_s=0.5, burst_s=5.0)
        numbers, events = itertools.count(), list[tuple[float, int, str, Lease | None]]()
        waiting: dict[asyncio.Task[Lease], tuple[str, float]] = {}
        for name, (at_once, _, pause_s) in clients.items():
            self.waits_s[name], self.refused_at[name] = [], []
            for i in range(at_once):
                heapq.heappush(events, (pause_s * i / at_once, next(numbers), name, None))
        while events[0][0] < seconds:
            at, _, name, lease = heapq.heappop(events)
            clock.now = at
            if lease is None:
                waiting[ask(lane, name)] = name, at
            else:
                lease.release()
                heapq.heappush(events, (at + clients[name][2], next(numbers), name, None))
            await settle()
            for task in [task for task in waiting if task.done()]:
                name, came_at = waiting.pop(task)
                _, took_s, pause_s = clients[name]
                if task.exception() is None:
                    self.waits_s[name].append(at - came_at)
                    self.busy_s += took_s
                    heapq.heappush(events, (at + took_s, next(numbers), name, task.result()))
                else:
                    self.refused_at[name].append(at)
                    heapq.heappush(events, (at + 5.0, next(numbers), name, None))
        for task in waiting:
            task.cancel()
        await settle()


heavies = st.lists(st.tuples(st.integers(1, 4), st.floats(10.0, 20.0), st.floats(0.1, 2.0)), min_size=1, max_size=4)
KNOWN_AFTER_S = 30.0
"""By then everybody's requests have shown what they take."""


@given(heavies, st.integers(4, 8), st.floats(0.1, 0.5), st.floats(1.0, 3.0))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_who_takes_little_is_let_in_while_others_hold_and_queue_for_all_they_can(
    heavy: list[tuple[int, float, float]], places: int, took_s: float, pause_s: float
) -> None:
    siege = Siege(places)
    clients = {f"heavy {i}": each for i, each in enumerate(heavy)} | {"light": (1, took_s, pause_s)}
    asyncio.run(siege.run(clients, 90.0))
    refused = [at for at in siege.refused_at["light"] if at > KNOWN_AFTER_S]
    asked = len(refused) + len(siege.waits_s["light"])
    assert len(refused) <= 0.1 * asked
    assert max(siege.waits_s["light"]) <= max(each[1] for each in heavy)
    assert all(siege.waits_s.values())  # nobody is kept out altogether


@given(st.integers(1, 12), st.floats(1.0, 10.0))
@settings(max_examples=10, deadline=None)
def test_who_is_alone_has_all_of_it(places: int, took_s: float) -> None:
    siege = Siege(places)
    asyncio.run(siege.run({"only": (places, took_s, 0.0)}, 30.0))
    assert siege.refused_at["only"] == []
    assert siege.busy_s >= places * (30.0 - took_s) * 0.99
