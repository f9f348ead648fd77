"""How many requests of a lane may be on their way to their first token at once: as many as the stages keep pace with.

A fixed number is wrong on every machine but one: too many, and all of them wait inside, where none can be refused any
more. So the number follows what is measured, as TCP's congestion window does: a little more while the lane is full and
first tokens come in time, a good part less when they don't.
"""

from deployments.ingress.pace import moved

START = 8
FLOOR = 4
"""Keeps every stage of the pipeline busy, however slow they are."""
PATIENCE = 2.0
"""How many times as long as the work itself a first token may take, where that is more than the configured target."""
GROWTH = 0.1
DEEPEST_CUT = 0.7
WEIGHT = 0.2
SLOWER_WEIGHT = 0.02
"""Of a lone request that took longer than those before it: what delayed it may have come from elsewhere."""


class PaceLimit:
    """Grows by a tenth, at first twofold, while one limit's worth of requests comes and goes; shrinks once in that."""

    def __init__(self, ceiling: int, target_s: float) -> None:
        self._ceiling, self._target_s = ceiling, target_s
        self._limit = float(min(START, ceiling))
        self._stay_s: float | None = None
        self._least_s: float | None = None
        self._seen_alone = False
        self._shrunk_at: float | None = None

    @property
    def now(self) -> int:
        return int(self._limit)

    @property
    def least_s(self) -> float:
        """How long the work itself takes to a first token, 0.0 while that is not known."""
        return self._least_s or 0.0

    @property
    def target_s(self) -> float:
        """How long a request may take to its first token before it counts as too long."""
        return max(self._target_s, PATIENCE * self.least_s)

    @property
    def stay_s(self) -> float:
        """How long requests took of late."""
        return self._stay_s or 0.0

    def observe(self, stayed_s: float, came_at: float, now: float, *, lone: bool, full: bool) -> None:
        """A request that came at `came_at` had its first token after `stayed_s`.

        `lone`: hardly anything else ran. `full`: others wait, or could not have come in a moment ago.
        """
        if self._shrunk_at is not None and came_at < self._shrunk_at:
            return  # it came under the larger limit and tells nothing of the present one
        self._stay_s = moved(self._stay_s, stayed_s, WEIGHT)
        self._seen_alone |= lone
        if lone or (not self._seen_alone and self.now <= FLOOR):  # where it never was alone, the floor must tell
            slower = self._least_s is not None and stayed_s > self._least_s
            self._least_s = moved(self._least_s, stayed_s, SLOWER_WEIGHT if slower else WEIGHT)
        if self._stay_s > self.target_s:
            self._shrink(now)
        elif full:
            self._grow()

    def _grow(self) -> None:
        at_first = self._shrunk_at is None
        step = self._limit if at_first else max(1.0, GROWTH * self._limit)
        self._limit = min(self._limit + step / self._limit, self._ceiling)

    def _shrink(self, now: float) -> None:
        assert self._stay_s is not None
        cut = max(self.target_s / self._stay_s, DEEPEST_CUT)
        self._limit = max(self._limit * cut, min(FLOOR, self._ceiling))
        self._shrunk_at, self._stay_s = now, self.target_s
