"""Clients take turns: a queue of queues in which the length of one client's queue costs the others nothing."""

import itertools
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Waiter(Protocol):
    """Whoever may stand in the queue."""

    @property
    def client(self) -> str: ...


W = TypeVar("W", bound=Waiter)


class FairQueue(Generic[W]):
    """Each client's own are served in the order in which they came; of several clients each one's turn is one."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[W]] = OrderedDict()  # the client whose turn is next stands first

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def __contains__(self, waiter: W) -> bool:
        return waiter in self._queues.get(waiter.client, ())

    def join(self, waiter: W) -> None:
        self._queues.setdefault(waiter.client, deque()).append(waiter)

    def leave(self, waiter: W) -> None:
        """Out of the queue, wherever it stands; its client keeps its turn."""
        self._queues[waiter.client].remove(waiter)
        self._forget_if_empty(waiter.client)

    def next(self, may_run: Callable[[str], bool]) -> W | None:
        """The first of the first client that may run; it stays in the queue."""
        return next((queue[0] for client, queue in self._queues.items() if may_run(client)), None)

    def serve(self, waiter: W) -> None:
        """`waiter`, which `next` has named, leaves, and its client's next turn comes after everyone else's."""
        self._queues[waiter.client].popleft()
        self._queues.move_to_end(waiter.client)
        self._forget_if_empty(waiter.client)

    def before(self, client: str, may_run: Callable[[str], bool]) -> int:
        """How many will be served before one of `client` that joins now; who may not run at present holds up nobody."""
        place = len(self._queues.get(client, ())) + 1
        others = (queue for name, queue in self._queues.items() if name != client and may_run(name))
        return place - 1 + sum(min(len(queue), place) for queue in others)

    def has_shorter_queue(self, client: str) -> bool:
        """Whether another client has more in the queue than `client`."""
        own = len(self._queues.get(client, ()))
        return any(len(queue) > own for queue in self._queues.values())

    def last_of_the_longest(self) -> W:
        """Who goes when the queue is too long. There must be one."""
        return max(self._queues.values(), key=len)[-1]

    def in_order(self) -> list[W]:
        """All of them as they will be served."""
        rounds = itertools.zip_longest(*self._queues.values())
        return [waiter for in_round in rounds for waiter in in_round if waiter is not None]

    def _forget_if_empty(self, client: str) -> None:
        if not self._queues[client]:
            del self._queues[client]
