"""How many run at once follows from how fast they get on: on every machine, and when the machine changes."""

import random
from collections import deque

import pytest

from deployments.ingress.admission.concurrency_limit import FLOOR, START, AdaptiveConcurrencyLimit


class Machine:
    """Does `work_s` of work for each request: a part of it alone, one after the other, the rest side by side."""

    def __init__(self, alone_s: float, beside_s: float = 0.0) -> None:
        self.alone_s, self.beside_s = alone_s, beside_s
        self.now = 0.0

    def keep_full(self, limit: AdaptiveConcurrencyLimit, requests: int) -> list[float]:
        """As many requests as `limit` lets in at once, always; how long each of them took."""
        running: deque[float] = deque()
        stays: list[float] = []
        free_at = self.now
        for _ in range(requests):
            while len(running) < limit.now:
                running.append(self.now)
            came_at = running.popleft()
            free_at = max(free_at, came_at) + self.alone_s
            self.now = max(self.now, free_at + self.beside_s)
            stays.append(self.now - came_at)
            limit.observe(stays[-1], came_at, self.now, lone=False, full=True)
        return stays

    def one_at_a_time(self, limit: AdaptiveConcurrencyLimit, requests: int) -> None:
        for _ in range(requests):
            came_at, self.now = self.now, self.now + self.alone_s + self.beside_s
            limit.observe(self.now - came_at, came_at, self.now, lone=True, full=False)


@pytest.mark.parametrize("rate", [10, 30, 100])
def test_first_tokens_come_in_about_the_time_that_is_wanted_whatever_the_machine_can_do(rate: int) -> None:
    limit, machine = AdaptiveConcurrencyLimit(1000, 1.0), Machine(1 / rate)
    stays = machine.keep_full(limit, 100 * rate)
    late = stays[50 * rate :]
    assert 0.6 < sum(late) / len(late) < 1.2
    assert max(late) < 1.6


def test_the_limit_shrinks_when_the_machine_slows_down_and_grows_again_afterwards() -> None:
    limit, machine = AdaptiveConcurrencyLimit(1000, 1.0), Machine(0.01)
    machine.keep_full(limit, 2000)
    assert limit.now > 50
    machine.alone_s = 0.1
    machine.keep_full(limit, 500)
    assert limit.now < 16
    machine.alone_s = 0.01
    machine.keep_full(limit, 2000)
    assert limit.now > 50


def test_work_that_takes_longer_than_the_target_by_itself_still_runs_side_by_side() -> None:
    limit, machine = AdaptiveConcurrencyLimit(1000, 1.0), Machine(0.05, beside_s=3.0)
    machine.one_at_a_time(limit, 20)
    assert limit.target_s == pytest.approx(9.15)
    stays = machine.keep_full(limit, 4000)
    assert limit.now > 30
    assert max(stays[2000:]) < 13.0


def test_one_slow_machine_does_not_stop_everything() -> None:
    limit, machine = AdaptiveConcurrencyLimit(100, 0.1), Machine(5.0)
    machine.keep_full(limit, 100)
    assert FLOOR <= limit.now <= 4 * FLOOR


def test_the_limit_never_passes_its_ceiling_and_starts_below_it() -> None:
    assert AdaptiveConcurrencyLimit(1000, 1.0).now == START
    assert AdaptiveConcurrencyLimit(2, 1.0).now == 2
    limit = AdaptiveConcurrencyLimit(20, 1.0)
    Machine(0.0001).keep_full(limit, 500)
    assert limit.now == 20


def test_it_does_not_grow_while_there_is_room() -> None:
    limit = AdaptiveConcurrencyLimit(1000, 1.0)
    Machine(0.01).one_at_a_time(limit, 500)
    assert limit.now == START


def test_those_who_came_before_a_cut_do_not_make_another() -> None:
    limit = AdaptiveConcurrencyLimit(1000, 1.0)
    for _ in range(100):
        limit.observe(5.0, 0.0, 5.0, lone=False, full=True)
    assert limit.now == START // 2


def test_work_that_was_never_seen_alone_still_runs_side_by_side() -> None:
    limit, machine = AdaptiveConcurrencyLimit(1000, 1.0), Machine(0.05, beside_s=3.0)
    stays = machine.keep_full(limit, 4000)
    assert limit.now > 30
    assert max(stays[2000:]) < 13.0


def test_rare_large_requests_among_small_ones_do_not_look_like_an_overload() -> None:
    limit, now, source = AdaptiveConcurrencyLimit(1000, 0.5), 0.0, random.Random(1)
    for _ in range(5000):
        stayed_s = 10.0 if source.random() < 0.05 else 0.1
        now += 0.01
        limit.observe(stayed_s, now - stayed_s, now, lone=False, full=True)
    assert limit.now > 200
