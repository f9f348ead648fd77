import asyncio

import pytest

from deployments.core.deadline import Deadline
from deployments.errors import MediaHostError, StageTimeout, StageUnavailable
from deployments.fetcher.flights import Flights


class Work:
    """Something that takes until `finish` is set, and counts how often it was begun and cancelled."""

    def __init__(self, error=None):
        self.finish = asyncio.Event()
        self.begun = self.cancelled = 0
        self.error = error

    async def __call__(self):
        self.begun += 1
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return f"result {self.begun}"


def join(flights, work, key="url", seconds=60.0):
    return asyncio.create_task(flights.join(key, work, Deadline(seconds, "fetch")))


async def until_begun(work):
    while not work.begun:
        await asyncio.sleep(0)


async def test_what_several_want_at_once_is_done_once():
    flights, work = Flights(), Work()
    callers = [join(flights, work) for _ in range(5)]
    await until_begun(work)
    work.finish.set()
    assert await asyncio.gather(*callers) == ["result 1"] * 5
    assert not flights.under_way("url")


async def test_different_keys_do_not_share():
    flights, work = Flights(), Work()
    work.finish.set()
    assert await asyncio.gather(join(flights, work, "a"), join(flights, work, "b")) == ["result 1", "result 2"]


async def test_a_cancelled_owner_does_not_fail_the_others():
    flights, work = Flights(), Work()
    owner, joined = join(flights, work), join(flights, work)
    await until_begun(work)
    owner.cancel()
    await asyncio.wait({owner})
    work.finish.set()
    assert await joined == "result 1"
    assert (owner.cancelled(), work.cancelled) == (True, 0)


async def test_an_owner_whose_time_is_over_does_not_fail_the_others():
    flights, work = Flights(), Work()
    owner, joined = join(flights, work, seconds=0.02), join(flights, work)
    with pytest.raises(StageTimeout):
        await owner
    work.finish.set()
    assert await joined == "result 1"


async def test_a_joined_caller_keeps_its_own_deadline():
    flights, work = Flights(), Work()
    owner, joined = join(flights, work), join(flights, work, seconds=0.02)
    with pytest.raises(StageTimeout):
        await joined
    work.finish.set()
    assert await owner == "result 1"


async def test_work_is_cancelled_when_the_last_caller_leaves_and_nobody_joins_it_then():
    flights, work = Flights(), Work()
    callers = [join(flights, work) for _ in range(2)]
    await until_begun(work)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    late = join(flights, work)
    work.finish.set()
    assert await late == "result 2"
    assert work.cancelled == 1


async def test_all_get_the_error_of_the_work_and_the_next_one_starts_anew():
    flights, work = Flights(), Work(MediaHostError("no"))
    callers = [join(flights, work) for _ in range(3)]
    await until_begun(work)
    work.finish.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [MediaHostError] * 3
    work.error = None
    assert await join(flights, work) == "result 2"


async def test_closing_cancels_what_is_under_way():
    flights, work = Flights(), Work()
    caller = join(flights, work)
    await until_begun(work)
    await flights.close()
    with pytest.raises(StageUnavailable):
        await caller
    assert work.cancelled == 1
