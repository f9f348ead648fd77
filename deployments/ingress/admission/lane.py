"""A lane: a bounded number of requests and bytes on their way to a first token, and a short, fair queue before it.

Knows nothing of HTTP. A request gets all it needs at once or waits; so no two requests can hold half of what the other
lacks. Who has taken little of late goes before who has taken much, in the queue and among those who are refused, and
finds places that the others may not fill. The head of the queue is never passed by a smaller request, so a large one is
not starved. Must be used from one event loop.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from deployments.core.deadline import Deadline
from deployments.errors import Overloaded, StageTimeout
from deployments.ingress.admission.background import BackgroundQueue
from deployments.ingress.admission.client_usage import ClientUsage
from deployments.ingress.admission.concurrency_limit import PATIENCE, AdaptiveConcurrencyLimit
from deployments.ingress.admission.drain_rate import DrainRate
from deployments.ingress.admission.fair_queue import FairQueue
from deployments.ingress.admission.heavy_places import HeavyPlaces
from deployments.ingress.admission.lease import LONE, Lease, QueuedRequest
from deployments.ingress.admission.media_budget import MediaBudget
from deployments.ingress.admission.queue_timeout import QueueTimeout
from deployments.ingress.admission.retry_after import RetryAfterSlots
from deployments.types import StageName

STAGE = StageName.ADMISSION
SLACK = 10.0
"""How many times `max_wait_s` longer a wait may become than what was accepted, before one who was let in the queue is
sent away after all."""
SHORTEST_RETRY_S = 1.0
LONGEST_RETRY_S = 120.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    max_running: int
    """Ceiling of the requests without a first token; `AdaptiveConcurrencyLimit` finds out how many it shall be."""
    max_waiting: int
    max_wait_s: float
    """Of a queue that lasts."""
    max_burst_wait_s: float = 0.0
    """Of one that has just formed, where that is more."""
    max_running_per_client: int | None = None
    """Answers under way included."""
    target_s: float | None = None
    """Of the time to a first token; None: as many as `max_running` may run however long they take."""
    max_ttft_s: float | None = None
    """A first token later than this is of no use (the SLO); None: any is. Has no effect without `target_s`."""


class AdmissionQueue:
    """Whoever holds a `Lease` of `acquire` runs; the rest waits in turn."""

    def __init__(
        self,
        name: str,
        limits: QueueLimits,
        budget: MediaBudget,
        clock: Callable[[], float] = time.monotonic,
        crowd: Callable[[], int] | None = None,
        usage: ClientUsage | None = None,
    ) -> None:
        """`crowd()`: how many run in this lane and in those that share its stages; default: in this lane. `usage`: what
        clients have taken of these stages; default: of this lane."""
        self.name = name
        self.clock = clock
        self.crowd = crowd or (lambda: self.running + self.background_running)
        self._limits = limits
        self.budget = budget
        self._running: set[Lease] = set()
        self._clients: Counter[str] = Counter()
        self._usage = usage or ClientUsage(clock)
        self._queue: FairQueue[QueuedRequest] = FairQueue(self._usage)
        self._places = HeavyPlaces(self._usage, clock)
        self._background = BackgroundQueue(clock)
        self._pace = DrainRate()
        self._patience = QueueTimeout(limits.max_wait_s, limits.max_burst_wait_s)
        self._heavy_patience = QueueTimeout(limits.max_wait_s, limits.max_burst_wait_s)
        self._comebacks = RetryAfterSlots()
        self._limit = None if limits.target_s is None else AdaptiveConcurrencyLimit(limits.max_running, limits.target_s)
        budget.add_lane(self._admit)

    @property
    def running(self) -> int:
        """Requests that have no first token yet, without those of the background."""
        return len(self._running)

    @property
    def background_running(self) -> int:
        """The same, of the background."""
        return self._background.running

    @property
    def admitted(self) -> int:
        """Requests that have not ended."""
        return self._clients.total() + self._background.admitted

    @property
    def heavy(self) -> int:
        """Requests under way of clients that have taken more than the mean."""
        return len(self._places)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def max_running(self) -> int:
        """How many may run at present."""
        return self._limits.max_running if self._limit is None else self._limit.now

    def check(self, client: str, size_bytes: int, deadline: Deadline) -> None:
        """Raise `Overloaded` when a request that comes now has no place in the queue or in the time that it has."""
        why = self.objection(client, size_bytes, deadline)
        if why is not None:
            raise self._overloaded(why)

    def objection(self, client: str, size_bytes: int, deadline: Deadline) -> str | None:
        """Why `check` would raise."""
        self._look()
        self._usage.asks(client)
        wait_s = self.expected_wait_s(client, size_bytes)
        stay_s = 0.0 if self._limit is None or wait_s == 0 else self._limit.stay_s
        if wait_s > min(self._longest_wait_s(client), self._useful_wait_s) or wait_s + stay_s > deadline.remaining_s():
            return f"would reach this request in about {wait_s:.2g} s only"
        if self.waiting >= self._limits.max_waiting and self._queue.is_last(client, self.clock()):
            return "is full"
        return None

    async def acquire(self, client: str, size_bytes: int, deadline: Deadline) -> Lease:
        """A lease for `size_bytes`, at once or after waiting; more than may be held at all counts as all of it.

        Raises `Overloaded` when the queue is full or is not expected to come to this request in time, `StageTimeout`
        when `deadline` ends meanwhile.
        """
        size_bytes = min(size_bytes, self.budget.max_bytes)
        self.check(client, size_bytes, deadline)
        longest_s = min(self._longest_wait_s(client) + SLACK * self._steady_wait_s, self._useful_wait_s)
        patience_s = min(deadline.remaining_s(), longest_s)
        waiter = QueuedRequest(client, size_bytes, self.clock(), self.clock() + patience_s)
        self._queue.join(waiter)
        self._admit()
        self._look()
        if self.waiting > self._limits.max_waiting:
            self._refuse(self._queue.last(), "is full")
            self._admit()
        lease = await self._granted(waiter, patience_s)
        if lease is None and deadline.remaining_s() <= 0:
            raise StageTimeout(STAGE)
        if lease is None:
            raise self._overloaded("did not reach this request in time")
        return lease

    async def acquire_background(self, client: str, size_bytes: int, deadline: Deadline) -> Lease:
        """As `acquire`, for work that nobody waits for: it is not refused, but waits until there is room to spare.

        Raises `Overloaded` when `deadline` ends meanwhile.
        """
        size_bytes = min(size_bytes, self.budget.max_bytes)
        waiter = QueuedRequest(client, size_bytes, self.clock(), math.inf, background=True)
        self._background.queue.join(waiter)
        self._admit()
        lease = await self._granted(waiter, deadline.remaining_s())
        if lease is None:
            raise self._overloaded("leaves no room for background work")
        return lease

    def expected_wait_s(self, client: str, size_bytes: int = 0) -> float:
        """How long a request of `client` that joins now would wait, at the pace of late; 0 when it need not wait."""
        before = self._queue.before(client, self.clock(), self._may_run)
        if before == 0 and self._may_run(client) and self._fits(size_bytes):
            return 0.0
        return (before + 1) * self._seconds_per_departure()

    def recount(self, lease: Lease, more_bytes: int) -> None:
        """`lease` holds so many bytes more."""
        self.budget.recount(more_bytes, background=lease.background)
        if more_bytes < 0:
            self.budget.look()

    def leave_place(self, lease: Lease, *, served: bool) -> None:
        """`lease` no longer counts as running. `served`: it has its first token."""
        now, lone = self.clock(), lease.came_alone and self.crowd() <= LONE
        full, light = bool(self._queue) or self.running >= self.max_running, False
        if lease.background:
            full = full or bool(self._background.queue)
            self._background.leave_place(lease)
        else:
            self._running.remove(lease)
            light = self._places.leave_place(lease)
            self._pace.left(now - lease.granted_at, now, full=full)
        self.budget.recount(-lease.size_bytes, background=lease.background)
        stayed_s = max(0.0, now - lease.granted_at - lease.outside_s)
        # What failed quickly would make the stages look faster than they are.
        if self._limit is not None and (served or stayed_s > self._limit.target_s):
            self._limit.observe(stayed_s, lease.granted_at, now, lone=lone, full=full)
            if light:
                self._places.observe(lease, stayed_s, self._limits.target_s or 0.0, self._limit.least_s)
        self.budget.look()
        self._look()
        self._send_hopeless_away()

    def leave_client(self, lease: Lease) -> None:
        """`lease` no longer counts as its client's."""
        if lease.background:
            self._background.usage.end(lease)
            self._background.admitted -= 1
        else:
            self._usage.end(lease)
            self._places.end(lease)
            self._clients[lease.client] -= 1
            if not self._clients[lease.client]:
                del self._clients[lease.client]
        self._admit()

    def retry_after_s(self) -> float:
        """When the queue as it is now will have drained, and those who were sent away before will have had a turn."""
        step_s = self._seconds_per_departure()
        turn_s = self._comebacks.next_s(self.clock(), (self.waiting + 1) * step_s, step_s)
        return min(max(turn_s, SHORTEST_RETRY_S), LONGEST_RETRY_S)

    @property
    def _steady_wait_s(self) -> float:
        """As configured, or once more what the work itself takes."""
        return max(self._limits.max_wait_s, 0.0 if self._limit is None else self._limit.least_s)

    def _longest_wait_s(self, client: str) -> float:
        patience = self._heavy_patience if self._usage.is_heavy(client) else self._patience
        return max(patience.longest_s, self._steady_wait_s)

    @property
    def _useful_wait_s(self) -> float:
        """After which a first token would come too late; that may be three times what the work itself takes."""
        if self._limit is None or self._limits.max_ttft_s is None:
            return math.inf
        return max(0.0, max(self._limits.max_ttft_s, PATIENCE * self._limit.least_s) - self._limit.stay_s)

    def _look(self) -> None:
        """A queue of those alone who have taken much is none for the others."""
        self._usage.look(self._running)
        self._patience.see(self.clock(), queued=self._queue.any(lambda client: not self._usage.is_heavy(client)))
        self._heavy_patience.see(self.clock(), queued=bool(self._queue))

    def _seconds_per_departure(self) -> float:
        now = self.clock()
        return self._pace.seconds_per_departure([now - lease.granted_at for lease in self._running])

    def _send_hopeless_away(self) -> None:
        """The lane may have become slower since they came: better they hear it now than at the end of their wait."""
        if not self._queue:
            return
        now, step_s, place = self.clock(), self._seconds_per_departure(), 0
        for waiter in self._queue.in_order():
            if (place + 1) * step_s > waiter.gives_up_at - now:
                self._refuse(waiter, "will not reach this request in time")
            else:
                place += 1
        self._admit()

    def _refuse(self, waiter: QueuedRequest, why: str) -> None:
        self._queue.leave(waiter)
        if not waiter.lease.done():
            waiter.lease.set_exception(self._overloaded(why))

    def _overloaded(self, what: str) -> Overloaded:
        said = f"the server is busy: the queue for {self.name} requests {what}"
        return Overloaded(said, retry_after_s=self.retry_after_s())

    def _admit(self) -> None:
        """Grant leases in turn until the next in line does not fit; then, while nobody waits, in the background."""
        if self.running < self.max_running:
            self._admit_from(self._queue, self._may_run, self._fits)
        if self.running < self.max_running and self._queue.next(self._may_run) is not None:
            self.budget.wait(self._admit)
        else:
            self.budget.leave_line(self._admit)
        if self._background.queue and self._queue.next(self._may_run) is None:
            self._admit_from(self._background.queue, lambda client: True, self._fits_background)

    def _admit_from(
        self, queue: FairQueue[QueuedRequest], may_run: Callable[[str], bool], fits: Callable[[int], bool]
    ) -> None:
        while (waiter := queue.next(may_run)) is not None:
            gone = waiter.lease.done()
            if not gone and not fits(waiter.size_bytes):
                return
            queue.leave(waiter)
            if not gone:
                self._grant(waiter)

    def _grant(self, waiter: QueuedRequest) -> None:
        lease = Lease(self, waiter.client, waiter.size_bytes, waiter.background)
        self.budget.take(self._admit, waiter.size_bytes, background=waiter.background)
        if waiter.background:
            self._background.begin(lease)
        else:
            self._running.add(lease)
            self._clients[waiter.client] += 1
            self._places.begin(lease)
        usage = self._background.usage if waiter.background else self._usage
        usage.begin(lease)
        waiter.lease.set_result(lease)

    def _may_run(self, client: str) -> bool:
        limit = self._limits.max_running_per_client
        allowed = limit is None or self._clients[client] < limit
        return allowed and self._places.may_begin(client, self.max_running)

    def _fits(self, size_bytes: int) -> bool:
        return self.running < self.max_running and self.budget.fits(self._admit, size_bytes)

    def _fits_background(self, size_bytes: int) -> bool:
        """Within the lane's bounds for all that runs, and within the background's part of them."""
        has_place = self._background.has_place(self.running, self.max_running)
        return has_place and self.budget.fits(self._admit, size_bytes, background=True)

    async def _granted(self, waiter: QueuedRequest, patience_s: float) -> Lease | None:
        """What `waiter` waits for; None once its patience is over. Raises what it was refused with."""
        try:
            async with asyncio.timeout(patience_s):
                return await waiter.lease
        except TimeoutError:
            self._leave(waiter)
            return None
        except BaseException:
            self._leave(waiter)
            raise

    def _leave(self, waiter: QueuedRequest) -> None:
        """The one who waited has gone: out of the queue, or out of what it was just granted."""
        if waiter.lease.done() and not waiter.lease.cancelled():
            if waiter.lease.exception() is None:
                waiter.lease.result().release()
            return
        waiter.lease.cancel()
        queue = self._background.queue if waiter.background else self._queue
        if waiter in queue:
            queue.leave(waiter)
        self._admit()
