"""How many requests of batches are under way at once: enough to keep the busiest stage busy, and hardly more.

What waits inside the stages for a place delays whoever comes next, and nothing is won by it. So the number follows how
long requests wait there beside how long the work takes: more while there is next to no queue, less when one builds up
(delay-based congestion control; cf. TCP Vegas and LEDBAT, for traffic that gives way).
"""

import asyncio
from collections import deque

START = 4
FLOOR = 2
SAMPLES = 8
"""Fewest requests to judge by; of a large limit, as many as it is."""
SHORT_QUEUE, LONG_QUEUE = 0.25, 0.6
"""Waiting in stages as a share of the work, below which the limit grows and above which it shrinks."""
GROWTH, CUT = 0.1, 0.85


class BatchConcurrency:
    """Doubles until requests wait for the first time; from then on it gains a tenth, or loses a seventh."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._limit = min(START, ceiling)
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._least_wait_s: float | None = None
        self._waited_s = self._worked_s = self._admission_s = 0.0
        self._seen = 0
        self._full = self._shrunk = False

    @property
    def now(self) -> int:
        return self._limit

    async def enter(self) -> None:
        """Waits for a place, in turn; it is to be left again."""
        if self._running < self._limit and not self._waiting:
            self._running += 1
            return
        self._full = True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        self._running -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._running < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._running += 1
                turn.set_result(None)

    def observe(self, waited_s: float, worked_s: float, admission_s: float = 0.0) -> None:
        """A request waited so long within stages, and was worked on for so long; before, it waited to be let in.

        What waits to be let in makes nobody else wait, but holds its body: more of it would gain nothing.
        """
        self._admission_s += admission_s
        # The ways between processes are in what was waited, whoever else is there: they are in the least of it too.
        self._least_wait_s = min(waited_s, waited_s if self._least_wait_s is None else self._least_wait_s)
        self._waited_s += waited_s - self._least_wait_s
        self._worked_s += worked_s
        self._seen += 1
        if self._seen >= max(SAMPLES, self._limit):
            self._judge(self._waited_s / max(self._worked_s, 1e-6))

    def _judge(self, queue: float) -> None:
        if queue > LONG_QUEUE:
            self._shrunk = True
            self._limit = max(min(FLOOR, self._ceiling), int(self._limit * CUT))
        elif queue < SHORT_QUEUE and self._full and self._admission_s < LONG_QUEUE * self._worked_s:
            step = max(1, int(GROWTH * self._limit)) if self._shrunk else self._limit
            self._limit = min(self._ceiling, self._limit + step)
        self._waited_s = self._worked_s = self._admission_s = 0.0
        self._seen, self._full = 0, bool(self._waiting)
        self._let_in()
