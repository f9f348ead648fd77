"""Background requests of a lane: they stand in a queue of their own, and together they have a part of its places.

One of them is let in only while nobody else waits, and takes no place from those who come later.
"""

from collections.abc import Callable

from deployments.ingress.admission.client_usage import ClientUsage
from deployments.ingress.admission.fair_queue import FairQueue
from deployments.ingress.admission.lease import Lease, QueuedRequest

BACKGROUND_SHARE = 0.5
"""Of a lane's places, and of the bytes of media, for background requests together."""


class BackgroundQueue:
    """Those who wait, those who run, and those who have not ended."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.usage = ClientUsage(clock)
        """Of the background alone: what nobody waits for puts nobody behind others where somebody does."""
        self.queue: FairQueue[QueuedRequest] = FairQueue(self.usage)
        self.admitted = 0
        """Requests that have not ended."""
        self._running: set[Lease] = set()

    @property
    def running(self) -> int:
        """Requests that have no first token yet."""
        return len(self._running)

    def has_place(self, others: int, places: int) -> bool:
        """Whether one more may run beside `others`, in a lane of `places`."""
        return self.running < max(1, int(BACKGROUND_SHARE * places)) and others + self.running < places

    def begin(self, lease: Lease) -> None:
        self._running.add(lease)
        self.admitted += 1

    def leave_place(self, lease: Lease) -> None:
        """It has its first token, or will have none."""
        self._running.remove(lease)
