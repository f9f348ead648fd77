"""The one place where a stage's work is bounded: functions that block on an owned thread pool, coroutines on the loop.

A thread outlives the cancellation of its request. The pool keeps the stage's bound all the same: a worker is free only
when its function has returned, and the function is told to stop through its `Deadline`. Coroutines are held to the
same: what is cancelled keeps its place until it has ended.
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, overload

from deployments.core.deadline import Deadline
from deployments.core.priority import YIELD_MORE, yield_to_event_loops
from deployments.errors import InternalError, StageTimeout

T = TypeVar("T")

WEDGED_AFTER_S = 10.0


def is_awaited(function: Callable[..., object]) -> bool:
    """Whether a call of it is a coroutine: of a coroutine function, or of an object whose `__call__` is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


class StageExecutor:
    """At most `workers` blocking functions at once, and as many coroutines; knows when one of them is stuck."""

    def __init__(self, stage: str, workers: int, *, yields: int = YIELD_MORE) -> None:
        """`yields`: by how many steps of niceness its threads rank below the event loops."""
        self._stage = stage
        self._pool = ThreadPoolExecutor(workers, stage, yield_to_event_loops, (yields,))
        self._places = asyncio.Semaphore(workers)
        self._coroutines: set[asyncio.Future[Any]] = set()
        self._is_closed = False
        self._running: dict[object, Deadline] = {}

    @property
    def running(self) -> int:
        """Functions and coroutines at work now, those of cancelled requests included."""
        return len(self._running)

    @overload
    async def run(
        self,
        deadline: Deadline,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: object,
        ended: Callable[[], None] | None = None,
    ) -> T: ...

    @overload
    async def run(
        self,
        deadline: Deadline,
        function: Callable[..., T],
        *args: object,
        ended: Callable[[], None] | None = None,
    ) -> T: ...

    async def run(
        self,
        deadline: Deadline,
        function: Callable[..., Any],
        *args: object,
        ended: Callable[[], None] | None = None,
    ) -> Any:
        """`function(*args)` on a worker thread; on this event loop where it `is_awaited`.

        Raises `StageTimeout` as soon as `deadline` is over and passes `CancelledError` on at once; in both cases the
        deadline is cancelled, the thread stops at its next `deadline.check()`, and the coroutine is cancelled.
        `ended()` is called on the event loop once the function holds nothing any more: it has returned, which may be
        after this call, or will not begin.
        """
        start = self._start_coroutine if is_awaited(function) else self._start_thread
        try:
            future = start(deadline, function, args, ended)
        except RuntimeError:  # closed
            if ended is not None:
                ended()
            raise
        try:
            done, _ = await asyncio.wait({future}, timeout=deadline.remaining_s())
        except asyncio.CancelledError:
            self._abandon(future, deadline)
            raise
        if not done:
            self._abandon(future, deadline)
            raise StageTimeout(self._stage)
        return future.result()

    def check_health(self, now: float | None = None) -> None:
        """Raise `InternalError` when a function goes on `WEDGED_AFTER_S` seconds after it had to stop.

        `now` is a reading of the monotonic clock, by default the present one.
        """
        now = time.monotonic() if now is None else now
        stuck = [d for d in list(self._running.values()) if d.overdue_s(now) > WEDGED_AFTER_S]
        if stuck:
            raise InternalError(f"{len(stuck)} of the {self._stage} stage's workers do not stop")

    def close(self) -> None:
        """Stop taking work, cancel what is queued and tell what runs to stop; does not wait for it."""
        self._is_closed = True
        for deadline in list(self._running.values()):
            deadline.cancel()
        for coroutine in tuple(self._coroutines):
            coroutine.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start_thread(
        self,
        deadline: Deadline,
        function: Callable[..., T],
        args: tuple[object, ...],
        ended: Callable[[], None] | None,
    ) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        work = self._pool.submit(self._work, deadline, function, args)
        if ended is not None:
            work.add_done_callback(lambda _: None if loop.is_closed() else loop.call_soon_threadsafe(ended))
        return asyncio.wrap_future(work)

    def _start_coroutine(
        self,
        deadline: Deadline,
        function: Callable[..., Coroutine[Any, Any, T]],
        args: tuple[object, ...],
        ended: Callable[[], None] | None,
    ) -> "asyncio.Future[T]":
        if self._is_closed:
            raise RuntimeError("the executor is closed")
        task = asyncio.get_running_loop().create_task(self._await(deadline, function, args))
        self._coroutines.add(task)
        task.add_done_callback(self._coroutines.discard)
        if ended is not None:
            task.add_done_callback(lambda _: ended())
        return task

    async def _await(
        self, deadline: Deadline, function: Callable[..., Coroutine[Any, Any, T]], args: tuple[object, ...]
    ) -> T:
        async with self._places:
            deadline.check()
            token = object()
            self._running[token] = deadline
            try:
                return await function(*args)
            finally:
                del self._running[token]

    def _work(self, deadline: Deadline, function: Callable[..., T], args: tuple[object, ...]) -> T:
        deadline.check()
        token = object()
        self._running[token] = deadline
        try:
            return function(*args)
        finally:
            del self._running[token]

    @staticmethod
    def _abandon(future: "asyncio.Future[T]", deadline: Deadline) -> None:
        deadline.cancel()
        future.cancel()
        # What is past cancelling still ends with an exception, which nobody awaits.
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
