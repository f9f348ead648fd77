"""A lane: a bounded number of requests and bytes at once, and a bounded, fair queue before it.

Knows nothing of HTTP. A request gets all it needs at once or waits; so no two requests can hold half of what the other
lacks. Clients take turns, whatever the length of their queues. The head of the queue is never passed by a smaller
request, so a large one is not starved. Must be used from one event loop.
"""

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from deployments.deadline import Deadline
from deployments.errors import Overloaded, StageTimeout
from deployments.ingress.pace import Pace

STAGE = "admission"
SLACK = 1.5
"""How much longer than allowed a wait must look before one who waits already is sent away."""
SHORTEST_RETRY_S = 1.0
LONGEST_RETRY_S = 120.0


@dataclass(frozen=True, slots=True)
class LaneLimits:
    max_running: int
    max_waiting: int
    max_wait_s: float
    max_running_per_client: int | None = None


class Lease:
    """The right to run; given back by `release()` or at the end of a `with` block, once."""

    def __init__(self, lane: "Lane", client: str, size_bytes: int) -> None:
        self._lane = lane
        self.client = client
        self.size_bytes = size_bytes
        self.granted_at = lane.clock()
        self._released = False

    def resize(self, size_bytes: int) -> None:
        """What was estimated is now counted. Growing never waits: the bytes are there already."""
        if not self._released:
            size_bytes = max(size_bytes, 0)
            self._lane.recount(size_bytes - self.size_bytes)
            self.size_bytes = size_bytes

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._lane.take_back(self)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


@dataclass(slots=True, eq=False)
class _Waiter:
    client: str
    size_bytes: int
    gives_up_at: float
    lease: "asyncio.Future[Lease]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Lane:
    """Whoever holds a `Lease` of `acquire` runs; the rest waits in turn."""

    def __init__(
        self, name: str, limits: LaneLimits, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.clock = clock
        self._limits = limits
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._running: dict[Lease, str] = {}
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()  # the client whose turn is next stands first
        self._pace = Pace()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    def set_max_bytes(self, max_bytes: int) -> None:
        """The share of this replica has changed; takes effect for whoever comes next."""
        self._max_bytes = max_bytes
        self._admit()

    async def acquire(self, client: str, size_bytes: int, deadline: Deadline) -> Lease:
        """A lease for `size_bytes`, at once or after waiting; more than the lane may hold counts as all of it.

        Raises `Overloaded` when the queue is full or is not expected to come to this request in time, `StageTimeout`
        when `deadline` ends meanwhile.
        """
        patience_s = min(deadline.remaining_s(), self._limits.max_wait_s)
        waiter = _Waiter(client, min(size_bytes, self._max_bytes), self.clock() + patience_s)
        self._check_queue(waiter, patience_s)
        self._queues.setdefault(client, deque()).append(waiter)
        self._admit()
        if not waiter.lease.done():
            self._shorten_longest_queue()
        try:
            async with asyncio.timeout(patience_s):
                return await waiter.lease
        except TimeoutError:
            self._leave(waiter)
            if deadline.remaining_s() <= 0:
                raise StageTimeout(STAGE) from None
            raise self._overloaded("did not reach this request in time") from None
        except BaseException:
            self._leave(waiter)
            raise

    def expected_wait_s(self, client: str, size_bytes: int = 0) -> float:
        """How long a request of `client` that joins now would wait, at the pace of late; 0 when it need not wait."""
        place = len(self._queues.get(client, ())) + 1
        before = sum(min(len(queue), place) for name, queue in self._queues.items() if name != client) + place - 1
        if before == 0 and self._fits(size_bytes):
            return 0.0
        return (before + 1) * self._seconds_per_departure()

    def recount(self, more_bytes: int) -> None:
        self._held_bytes += more_bytes
        if more_bytes < 0:
            self._admit()

    def take_back(self, lease: Lease) -> None:
        del self._running[lease]
        full = bool(self._queues) or self.running + 1 >= self._limits.max_running
        self._pace.left(self.clock() - lease.granted_at, full=full)
        self._held_bytes -= lease.size_bytes
        self._admit()
        self._send_hopeless_away()

    def retry_after_s(self) -> float:
        """When the queue as it is now will have drained."""
        drained_s = (self.waiting + 1) * self._seconds_per_departure()
        return min(max(drained_s, SHORTEST_RETRY_S), LONGEST_RETRY_S)

    def _seconds_per_departure(self) -> float:
        now = self.clock()
        return self._pace.seconds_per_departure([now - lease.granted_at for lease in self._running])

    def _check_queue(self, waiter: _Waiter, patience_s: float) -> None:
        expected_s = self.expected_wait_s(waiter.client, waiter.size_bytes)
        if expected_s > patience_s:
            raise self._overloaded(f"would reach this request in about {expected_s:.0f} s only")
        own = len(self._queues.get(waiter.client, ()))
        if self.waiting >= self._limits.max_waiting and own >= len(self._longest_queue()):
            raise self._overloaded("is full")

    def _send_hopeless_away(self) -> None:
        """The lane may have become slower since they came: better they hear it now than at the end of their wait."""
        if not self._queues:
            return
        now, step_s, place = self.clock(), self._seconds_per_departure(), 0
        for waiter in self._in_turn():
            if (place + 1) * step_s > SLACK * (waiter.gives_up_at - now):
                self._refuse(waiter, "will not reach this request in time")
            else:
                place += 1

    def _in_turn(self) -> list[_Waiter]:
        rounds = itertools.zip_longest(*self._queues.values())
        return [waiter for in_round in rounds for waiter in in_round if waiter is not None]

    def _refuse(self, waiter: _Waiter, why: str) -> None:
        self._queues[waiter.client].remove(waiter)
        self._forget_if_empty(waiter.client)
        if not waiter.lease.done():
            waiter.lease.set_exception(self._overloaded(why))

    def _longest_queue(self) -> deque[_Waiter]:
        return max(self._queues.values(), key=len)

    def _shorten_longest_queue(self) -> None:
        """Keep the bound: the client that fills the queue loses its last request to one that has fewer in it."""
        if self.waiting <= self._limits.max_waiting:
            return
        self._refuse(self._longest_queue()[-1], "is full")

    def _overloaded(self, what: str) -> Overloaded:
        said = f"the server is busy: the queue for {self.name} requests {what}"
        return Overloaded(said, retry_after_s=self.retry_after_s())

    def _admit(self) -> None:
        """Grant leases in turn until the next in line does not fit."""
        while (client := self._next_client()) is not None:
            waiter = self._queues[client][0]
            if not waiter.lease.done() and not self._fits(waiter.size_bytes):
                return
            self._queues[client].popleft()
            self._queues.move_to_end(client)
            self._forget_if_empty(client)
            if not waiter.lease.done():
                self._grant(waiter)

    def _grant(self, waiter: _Waiter) -> None:
        lease = Lease(self, waiter.client, waiter.size_bytes)
        self._running[lease] = waiter.client
        self._held_bytes += waiter.size_bytes
        waiter.lease.set_result(lease)

    def _next_client(self) -> str | None:
        return next((client for client in self._queues if self._may_run(client)), None)

    def _may_run(self, client: str) -> bool:
        limit = self._limits.max_running_per_client
        return limit is None or sum(1 for name in self._running.values() if name == client) < limit

    def _fits(self, size_bytes: int) -> bool:
        if self.running >= self._limits.max_running:
            return False
        return size_bytes == 0 or self._held_bytes == 0 or self._held_bytes + size_bytes <= self._max_bytes

    def _leave(self, waiter: _Waiter) -> None:
        """The one who waited has gone: out of the queue, or out of what it was just granted."""
        if waiter.lease.done() and not waiter.lease.cancelled():
            if waiter.lease.exception() is None:
                waiter.lease.result().release()
            return
        waiter.lease.cancel()
        if waiter in self._queues.get(waiter.client, ()):
            self._queues[waiter.client].remove(waiter)
            self._forget_if_empty(waiter.client)
        self._admit()

    def _forget_if_empty(self, client: str) -> None:
        if not self._queues[client]:
            del self._queues[client]
