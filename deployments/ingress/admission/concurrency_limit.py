"""How many requests of a lane may be on their way to their first token at once: as many as the stages keep pace with.

A fixed number is wrong on every machine but one: too many, and all of them wait inside, where none can be refused any
more. So the number follows what is measured, as TCP's congestion window does: a little more while the lane is full and
first tokens come in time, a good part less when they don't.

Means are geometric: beside pictures that take a tenth of a second there are videos that take ten, and one of them must
not look like an overload.
"""

import math

from deployments.ingress.admission.drain_rate import moved

START = 8
FLOOR = 4
"""Keeps every stage of the pipeline busy, however slow they are."""
PATIENCE = 3.0
"""How many times as long as the work itself a first token may take, where that is more than the configured target."""
GROWTH = 0.1
DEEPEST_CUT = 0.5
SAMPLES = 6
"""Fewest first tokens to judge by; of a large limit, half as many as it is."""
WEIGHT = 0.1
"""Of the newest request in the mean of those that ran alone."""


class AdaptiveConcurrencyLimit:
    """Doubles until first tokens are late for the first time; from then on it gains a tenth, or loses up to half."""

    def __init__(self, ceiling: int, target_s: float) -> None:
        self._ceiling, self._target_s = ceiling, target_s
        self._limit = min(START, ceiling)
        self._window = GeometricMean()
        self._stay_s = 0.0
        self._lone_s: float | None = None
        self._fewest_s: float | None = None
        self._shrunk_at: float | None = None

    @property
    def now(self) -> int:
        return self._limit

    @property
    def least_s(self) -> float:
        """How long the work itself takes to a first token, 0.0 while that is not known."""
        return self._lone_s or self._fewest_s or 0.0

    @property
    def target_s(self) -> float:
        """How long a request may take to its first token before it counts as too long."""
        return max(self._target_s, PATIENCE * self.least_s)

    @property
    def stay_s(self) -> float:
        """How long requests took of late, 0.0 while that is not known."""
        return self._stay_s

    def observe(self, stayed_s: float, came_at: float, now: float, *, lone: bool, full: bool) -> None:
        """A request that came at `came_at` had its first token after `stayed_s`.

        `lone`: hardly anything else ran. `full`: others wait, or could not have come in a moment ago.
        """
        if self._shrunk_at is not None and came_at < self._shrunk_at:
            return  # it came under the larger limit and tells nothing of the present one
        if lone:
            self._lone_s = _moved(self._lone_s, stayed_s)
        self._window.add(stayed_s)
        if self._window.count >= max(SAMPLES, self._limit // 2):
            self._stay_s = self._window.take()
            self._judge(now, full)

    def _judge(self, now: float, full: bool) -> None:
        if self._limit <= FLOOR:  # the best that is known of stages that were never seen at ease
            self._fewest_s = min(self._stay_s, self._fewest_s or self._stay_s)
        if self._stay_s > self.target_s:
            cut = max(self.target_s / self._stay_s, DEEPEST_CUT)
            self._limit = max(int(self._limit * cut), min(FLOOR, self._ceiling))
            self._shrunk_at = now
        elif full:
            step = self._limit if self._shrunk_at is None else max(1, int(GROWTH * self._limit))
            self._limit = min(self._limit + step, self._ceiling)


class GeometricMean:
    def __init__(self) -> None:
        self._log_sum, self.count = 0.0, 0

    def add(self, value: float) -> None:
        self._log_sum += math.log(max(value, 1e-6))
        self.count += 1

    def take(self) -> float:
        """The mean; begins anew."""
        mean = math.exp(self._log_sum / self.count)
        self._log_sum, self.count = 0.0, 0
        return mean


def _moved(mean_s: float | None, newest_s: float) -> float:
    """A geometric moving mean, one value further."""
    newest = math.log(max(newest_s, 1e-6))
    return math.exp(moved(None if mean_s is None else math.log(mean_s), newest, WEIGHT))
