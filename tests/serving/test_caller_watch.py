"""Work ends with whoever asked for it."""

import asyncio

import pytest

from deployments.serving.caller_watch import CallerWatch


async def work(watch: CallerWatch, caller: str | None, until: asyncio.Event) -> str:
    with watch.working_for(caller):
        await until.wait()
    return "done"


async def test_work_for_a_caller_that_died_is_cancelled_and_other_work_is_not() -> None:
    dead: set[str] = set()
    watch, end = CallerWatch(lambda caller: caller not in dead, look_s=0.01), asyncio.Event()
    orphan, other, nobodys = (asyncio.create_task(work(watch, caller, end)) for caller in ("a", "b", None))
    await asyncio.sleep(0.05)
    assert not orphan.done()
    dead.add("a")
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await orphan
    end.set()
    assert [await other, await nobodys] == ["done", "done"]


async def test_nobody_is_looked_at_who_waits_for_nothing() -> None:
    looked_at: list[str] = []

    def is_alive(caller: str) -> bool:
        looked_at.append(caller)
        return True

    watch, end = CallerWatch(is_alive, look_s=0.01), asyncio.Event()
    end.set()
    await work(watch, "quick", end)
    await asyncio.sleep(0.05)
    end.clear()
    slow = asyncio.create_task(work(watch, "slow", end))
    async with asyncio.timeout(10):
        while not looked_at:
            await asyncio.sleep(0.01)
    end.set()
    await slow
    assert set(looked_at) == {"slow"}
