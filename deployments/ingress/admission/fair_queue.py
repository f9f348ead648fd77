"""Who is next: of several clients the one that has taken least of late, and of one client's requests the first.

A queue of queues in which neither the number of one client's requests nor what they cost makes the others wait. Where
it gets too long, the last one goes: the youngest request of the client that has taken most.
"""

from collections import deque
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from deployments.ingress.admission.client_usage import ClientUsage

AGEING = 0.1
"""Seconds of work that a second of waiting is worth: so those who have taken most are served in the end, however many
come that have taken nothing."""


class Waiter(Protocol):
    """Whoever may stand in the queue."""

    @property
    def client(self) -> str: ...

    @property
    def joined_at(self) -> float: ...


W = TypeVar("W", bound=Waiter)


class FairQueue(Generic[W]):
    """Each one's rank is what its client will have taken once it has been served, and when it came."""

    def __init__(self, usage: ClientUsage) -> None:
        self._usage = usage
        self._queues: dict[str, deque[W]] = {}  # in the order in which the clients came

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def __contains__(self, waiter: W) -> bool:
        return waiter in self._queues.get(waiter.client, ())

    def any(self, of: Callable[[str], bool]) -> bool:
        """Whether a client waits that is one `of` those."""
        return any(of(client) for client in self._queues)

    def join(self, waiter: W) -> None:
        self._queues.setdefault(waiter.client, deque()).append(waiter)

    def leave(self, waiter: W) -> None:
        """Out of the queue, wherever it stands."""
        queue = self._queues[waiter.client]
        queue.remove(waiter)
        if not queue:
            del self._queues[waiter.client]

    def next(self, may_run: Callable[[str], bool]) -> W | None:
        """The first of those whose clients may run; it stays in the queue."""
        heads = ((self._rank(client, 0, queue[0].joined_at), queue[0]) for client, queue in self._queues.items())
        in_order = (waiter for _, waiter in sorted(heads, key=itemgetter(0)))
        return next((waiter for waiter in in_order if may_run(waiter.client)), None)

    def before(self, client: str, now: float, may_run: Callable[[str], bool]) -> int:
        """How many will be served before one of `client` that joins now; who may not run at present holds up nobody."""
        own = len(self._queues.get(client, ()))
        rank = self._rank(client, own, now)
        earlier = {
            name: sum(other <= rank for other, _ in self._ranked(name)) for name in self._queues if name != client
        }
        return own + sum(count for name, count in earlier.items() if count and may_run(name))

    def is_last(self, client: str, now: float) -> bool:
        """Whether one of `client` that joins now will stand behind all others."""
        rank = self._rank(client, len(self._queues.get(client, ())), now)
        return all(other <= rank for name in self._queues for other, _ in self._ranked(name))

    def last(self) -> W:
        """Who goes when the queue is too long. There must be one."""
        return self.in_order()[-1]

    def in_order(self) -> list[W]:
        """All of them as they will be served."""
        ranked = (ranked for client in self._queues for ranked in self._ranked(client))
        return [waiter for _, waiter in sorted(ranked, key=itemgetter(0))]

    def _ranked(self, client: str) -> Iterator[tuple[float, W]]:
        queue = self._queues[client]
        first = self._rank(client, 0, 0.0)
        each = self._usage.expected_s(client) if len(queue) > 1 else 0.0
        return ((first + place * each + AGEING * waiter.joined_at, waiter) for place, waiter in enumerate(queue))

    def _rank(self, client: str, place: int, joined_at: float) -> float:
        return self._usage.after_s(client, place + 1) + AGEING * joined_at
