"""A request's time inside one stage: how much is left, and whether anyone still wants the work.

Stages are told *seconds that are left*, never an instant: clocks of two nodes differ. A `Deadline` turns them into this
process's monotonic clock and is the one thing that threads look at to know whether to go on.
"""

import time

from deployments.errors import StageTimeout, WorkCancelled


class Deadline:
    """Created where a stage receives a call; handed down to threads, which call `check()` in their loops.

    `cancel()` may be called from any thread.
    """

    __slots__ = ("_cancelled_at", "_ends_at", "stage")

    def __init__(self, seconds: float, stage: str) -> None:
        self.stage = stage
        self._ends_at = time.monotonic() + seconds
        self._cancelled_at: float | None = None

    def remaining_s(self) -> float:
        """Seconds left, 0.0 when the time is over."""
        return max(0.0, self._ends_at - time.monotonic())

    def capped(self, limit_s: float, stage: str) -> "Deadline":
        """A deadline for one stage: what is left here, but at most `limit_s` seconds. It does not share `cancel()`."""
        return Deadline(min(self.remaining_s(), limit_s), stage)

    def overdue_s(self, now: float) -> float:
        """Seconds at monotonic `now` since the work had to stop, by `cancel()` or the end of the time; <= 0 before."""
        ends_at = self._ends_at if self._cancelled_at is None else min(self._ends_at, self._cancelled_at)
        return now - ends_at

    @property
    def cancelled(self) -> bool:
        return self._cancelled_at is not None

    def cancel(self) -> None:
        """Nobody wants the result any more: the next `check()` raises `WorkCancelled`."""
        if self._cancelled_at is None:
            self._cancelled_at = time.monotonic()

    def check(self) -> None:
        """Raise `WorkCancelled` after `cancel()`, `StageTimeout` after the end of the time; cheap in tight loops."""
        if self._cancelled_at is not None:
            raise WorkCancelled("the work was cancelled")
        if time.monotonic() >= self._ends_at:
            raise StageTimeout(self.stage)
