"""When those who were sent away shall ask again: one after the other, as the lane drains, and not all at once.

Clients that are told the same second come back in the same second, most of them to be sent away again. So each one gets
a turn of its own, after the turns of those who wait and of those who were sent away before.
"""

HORIZON_S = 30.0
"""Turns are given no further ahead: by then some will have gone elsewhere, and theirs are given once more."""


class RetryAfterSlots:
    def __init__(self) -> None:
        self._last_at = 0.0

    def next_s(self, now: float, drained_s: float, step_s: float) -> float:
        """Seconds to the next free turn, of a queue that takes `drained_s` and a lane that serves one in `step_s`."""
        first_at = now + drained_s
        turn_at = max(first_at, self._last_at + step_s)
        self._last_at = turn_at if turn_at < first_at + HORIZON_S else first_at
        return self._last_at - now
