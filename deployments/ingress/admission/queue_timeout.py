"""How long a request may be made to wait for its turn: long in a queue that has just formed, briefly in one that lasts.

A burst ends by itself: those who wait longer now make nobody wait later. An overload does not end, and a long queue
before it would make every answer late and serve no more of them. Nothing but time tells one from the other.
"""

RECOVERY = 0.1
"""Seconds of patience that a second without a queue gives back."""


class QueueTimeout:
    """Wears off while requests wait, second by second, and comes back slowly."""

    def __init__(self, steady_s: float, burst_s: float) -> None:
        """`steady_s`: what is always left of `burst_s`."""
        self._steady_s = steady_s
        self._burst_s = self._left_s = max(burst_s, steady_s)
        self._seen_at: float | None = None
        self._queued = False

    @property
    def longest_s(self) -> float:
        """The longest wait that is accepted now."""
        return max(self._left_s, self._steady_s)

    def see(self, now: float, *, queued: bool) -> None:
        """Called whenever somebody comes or goes; `queued`: somebody waits from now on."""
        passed_s = 0.0 if self._seen_at is None else now - self._seen_at
        gained_s = -passed_s if self._queued else RECOVERY * passed_s
        self._left_s = min(max(self._left_s + gained_s, 0.0), self._burst_s)
        self._seen_at, self._queued = now, queued
