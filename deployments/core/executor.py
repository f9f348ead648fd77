"""The one way blocking work leaves a stage's event loop: an owned thread pool of a configured size.

A thread outlives the cancellation of its request. The pool keeps the stage's bound all the same: a worker is free only
when its function has returned, and the function is told to stop through its `Deadline`.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from deployments.core.deadline import Deadline
from deployments.core.priority import yield_to_event_loops
from deployments.errors import InternalError, StageTimeout

T = TypeVar("T")

WEDGED_AFTER_S = 10.0


class StageExecutor:
    """At most `workers` blocking functions at once; knows when one of them is stuck."""

    def __init__(self, stage: str, workers: int) -> None:
        self._stage = stage
        self._pool = ThreadPoolExecutor(workers, stage, yield_to_event_loops)
        self._running: dict[object, Deadline] = {}

    @property
    def running(self) -> int:
        """Functions now on a thread, those of cancelled requests included."""
        return len(self._running)

    async def run(
        self,
        deadline: Deadline,
        function: Callable[..., T],
        *args: object,
        ended: Callable[[], None] | None = None,
    ) -> T:
        """`function(*args)` on a worker thread.

        Raises `StageTimeout` as soon as `deadline` is over and passes `CancelledError` on at once; in both cases the
        deadline is cancelled, and the thread stops at its next `deadline.check()`. `ended()` is called on the event
        loop once the function holds nothing any more: it has returned, which may be after this call, or will not begin.
        """
        loop = asyncio.get_running_loop()
        try:
            work = self._pool.submit(self._work, deadline, function, args)
        except RuntimeError:  # closed
            if ended is not None:
                ended()
            raise
        if ended is not None:
            work.add_done_callback(lambda _: None if loop.is_closed() else loop.call_soon_threadsafe(ended))
        future = asyncio.wrap_future(work)
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
            raise InternalError(f"{len(stuck)} of the {self._stage} stage's threads do not stop")

    def close(self) -> None:
        """Stop taking work and tell running functions to stop; does not wait for them."""
        for deadline in list(self._running.values()):
            deadline.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

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
        # A thread that is past cancelling still ends with an exception, which nobody awaits.
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
