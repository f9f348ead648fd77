"""Blocking work leaves the loop, keeps its bound even when cancelled, and is known when it sticks."""

import asyncio
import threading
import time

import pytest

from deployments.core import executor as executor_module
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.errors import InternalError, StageTimeout


async def test_work_runs_on_an_owned_thread_and_returns_its_value() -> None:
    pool = StageExecutor("decode", 1)
    name = await pool.run(Deadline(5, "decode"), lambda: threading.current_thread().name)
    assert name.startswith("decode")
    pool.close()


async def test_an_error_of_the_function_reaches_the_caller() -> None:
    pool = StageExecutor("decode", 1)
    with pytest.raises(ZeroDivisionError):
        await pool.run(Deadline(5, "decode"), lambda: 1 // 0)
    pool.close()


async def test_when_time_is_over_the_caller_is_free_at_once_and_the_thread_stops_at_its_next_check() -> None:
    pool = StageExecutor("decode", 1)
    deadline = Deadline(0.05, "decode")
    stopped = threading.Event()

    def endless() -> None:
        try:
            while True:
                deadline.check()
                time.sleep(0.005)
        finally:
            stopped.set()

    with pytest.raises(StageTimeout):
        await pool.run(deadline, endless)
    assert await asyncio.to_thread(stopped.wait, 5)
    pool.close()


async def test_a_cancelled_requests_thread_still_counts_against_the_bound() -> None:
    pool = StageExecutor("decode", 1)
    begun, release, running, most = threading.Event(), threading.Event(), 0, 0

    def work() -> None:
        nonlocal running, most
        begun.set()
        running += 1
        most = max(most, running)
        release.wait(5)
        running -= 1

    first = asyncio.create_task(pool.run(Deadline(5, "decode"), work))
    await asyncio.to_thread(begun.wait, 5)
    first.cancel()
    await asyncio.wait({first})
    second = asyncio.create_task(pool.run(Deadline(5, "decode"), work))
    await asyncio.sleep(0.02)
    assert pool.running == 1
    release.set()
    await second
    assert most == 1
    pool.close()


async def test_queued_work_of_a_cancelled_request_never_starts() -> None:
    pool = StageExecutor("decode", 1)
    release, started = threading.Event(), []
    first = asyncio.create_task(pool.run(Deadline(5, "decode"), release.wait, 5))
    queued = asyncio.create_task(pool.run(Deadline(5, "decode"), lambda: started.append(1)))
    await asyncio.sleep(0.02)
    queued.cancel()
    await asyncio.wait({queued})
    release.set()
    await first
    await pool.run(Deadline(5, "decode"), lambda: None)
    assert started == []
    pool.close()


async def test_what_a_function_holds_is_given_back_when_its_thread_has_ended_not_when_its_caller_leaves() -> None:
    pool = StageExecutor("decode", 1)
    begun, release, ended = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        release.wait(5)

    def call(name: str) -> "asyncio.Task[None]":
        return asyncio.create_task(pool.run(Deadline(5, "decode"), work, ended=lambda: ended.append(name)))

    running, queued = call("running"), call("queued")
    await asyncio.to_thread(begun.wait, 5)
    for task in (queued, running):
        task.cancel()
        await asyncio.wait({task})
    await asyncio.sleep(0)
    assert ended == ["queued"]
    release.set()
    await pool.run(Deadline(5, "decode"), lambda: None)
    assert ended == ["queued", "running"]
    pool.close()
    with pytest.raises(RuntimeError):
        await call("refused")
    assert ended == ["queued", "running", "refused"]


async def test_a_thread_that_ignores_its_deadline_fails_the_health_check() -> None:
    pool = StageExecutor("decode", 1)
    release = threading.Event()
    with pytest.raises(StageTimeout):
        await pool.run(Deadline(0.01, "decode"), release.wait, 30)
    pool.check_health()
    later = time.monotonic() + executor_module.WEDGED_AFTER_S + 1
    with pytest.raises(InternalError, match="decode"):
        pool.check_health(now=later)
    release.set()
    pool.close()
