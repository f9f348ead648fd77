"""Work keeps its bound even when cancelled, on threads and on the loop alike, and is known when it sticks."""

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from deployments.core import executor as executor_module
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor, is_awaited
from deployments.errors import BadRequest, InternalError, StageTimeout


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


class Work:
    """Work that lasts until it is released, on a thread or on the loop."""

    def __init__(self) -> None:
        self.inside = self.most = self.done = 0
        self.released = threading.Event()

    def blocking(self, deadline: Deadline, error: Exception | None = None) -> int:
        self._enter()
        try:
            while not self.released.is_set():
                deadline.check()
                time.sleep(0.002)
        finally:
            self.inside -= 1
        return self._end(error)

    async def awaited(self, deadline: Deadline, error: Exception | None = None) -> int:
        self._enter()
        try:
            while not self.released.is_set():
                await asyncio.sleep(0.002)
        finally:
            self.inside -= 1
        return self._end(error)

    def _enter(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)

    def _end(self, error: Exception | None) -> int:
        if error is not None:
            raise error
        self.done += 1
        return threading.get_ident()


KINDS = pytest.mark.parametrize("kind", ["blocking", "awaited"])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def start(pool: StageExecutor, work: Work, kind: str, seconds: float = 30, **options: Any) -> asyncio.Task[int]:
    deadline = Deadline(seconds, "preprocess")
    function = partial(getattr(work, kind), deadline, **options)
    return asyncio.create_task(pool.run(deadline, function))


@KINDS
async def test_no_more_run_at_once_than_there_are_workers(kind: str) -> None:
    pool, work = StageExecutor("preprocess", 2), Work()
    tasks = [start(pool, work, kind) for _ in range(6)]
    await until(lambda: work.inside == 2)
    await asyncio.sleep(0.02)
    assert pool.running == 2
    work.released.set()
    threads = await asyncio.gather(*tasks)
    assert (work.most, work.done, pool.running) == (2, 6, 0)
    assert (threading.get_ident() in threads) == (kind == "awaited")
    pool.close()


@KINDS
async def test_the_end_of_its_time_frees_the_place(kind: str) -> None:
    pool, work = StageExecutor("preprocess", 1), Work()
    with pytest.raises(StageTimeout, match="preprocess"):
        await start(pool, work, kind, seconds=0.03)
    await until(lambda: pool.running == 0)
    work.released.set()
    await start(pool, work, kind)
    assert work.done == 1
    pool.close()


@KINDS
async def test_who_is_cancelled_stops_and_frees_the_place(kind: str) -> None:
    pool, work = StageExecutor("preprocess", 1), Work()
    first, queued = start(pool, work, kind), start(pool, work, kind)
    await until(lambda: work.inside == 1)
    for task in (queued, first):
        task.cancel()
    await asyncio.wait({first, queued})
    await until(lambda: pool.running == 0)
    assert (work.most, work.done) == (1, 0)
    pool.close()


@KINDS
async def test_errors_pass_unchanged(kind: str) -> None:
    pool, work, error = StageExecutor("preprocess", 1), Work(), BadRequest("the video is no video")
    work.released.set()
    with pytest.raises(BadRequest) as raised:
        await start(pool, work, kind, error=error)
    assert raised.value is error
    pool.close()


@KINDS
async def test_shutdown_stops_what_runs_cancels_what_is_queued_and_takes_nothing_new(kind: str) -> None:
    pool, work = StageExecutor("preprocess", 1), Work()
    tasks = [start(pool, work, kind) for _ in range(3)]
    await until(lambda: work.inside == 1)
    pool.close()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, BaseException) for end in ended)
    assert [type(end) for end in ended[1:]] == [asyncio.CancelledError] * 2
    assert (work.most, work.done) == (1, 0)
    with pytest.raises(RuntimeError):
        await start(pool, work, kind)


async def test_a_coroutine_that_goes_on_when_nobody_wants_it_fails_the_health_check() -> None:
    pool, release = StageExecutor("preprocess", 1), asyncio.Event()

    async def deaf() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    leaving = asyncio.create_task(pool.run(Deadline(60, "preprocess"), deaf))
    await until(lambda: pool.running == 1)
    leaving.cancel()
    await asyncio.wait({leaving})
    assert pool.running == 1
    with pytest.raises(InternalError, match="preprocess"):
        pool.check_health(now=time.monotonic() + executor_module.WEDGED_AFTER_S + 1)
    release.set()
    await until(lambda: pool.running == 0)
    pool.close()


def test_coroutines_are_known_by_inspection() -> None:
    class Awaited:
        async def __call__(self) -> None: ...

    class Blocking:
        def __call__(self) -> None: ...

    assert is_awaited(Awaited())
    assert is_awaited(Work().awaited)
    assert is_awaited(partial(Work().awaited, None))
    assert not is_awaited(Blocking())
    assert not is_awaited(Work().blocking)
