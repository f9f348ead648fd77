"""Which places of a lane stay free of clients that have taken more than the mean.

Turns alone do not help one who comes when all places are taken by requests that take long. So of the places those stay
open for the others that they have used of late, and one more (max-min fairness: what they do not use is no loss to
anyone). While nobody else has been there of late, nobody is above the mean, and all places are everybody's.
"""

import math
from collections.abc import Callable

from deployments.ingress.admission.client_usage import HALF_LIFE_S, ClientUsage
from deployments.ingress.admission.lease import Lease

MOST_KEPT = 0.5
"""Of a lane's places, at most, are kept from those who have taken much."""


class HeavyPlaces:
    """Of one lane."""

    def __init__(self, usage: ClientUsage, clock: Callable[[], float]) -> None:
        self._usage, self._clock = usage, clock
        self._heavy: set[Lease] = set()
        self._light: set[Lease] = set()
        self._most_light, self._most_at = 0.0, clock()

    def may_begin(self, client: str, places: int) -> bool:
        """Whether one of `client` may run, of a lane of `places`, as far as others' parts are concerned."""
        if not self._usage.is_heavy(client):
            return True
        kept = min(int(MOST_KEPT * places), math.ceil(self._most_of_late()) + 1)
        return len(self._heavy) < max(1, places - kept)

    def begin(self, lease: Lease) -> None:
        if self._usage.is_heavy(lease.client):
            self._heavy.add(lease)
        else:
            self._light.add(lease)
            self._most_light, self._most_at = max(len(self._light), self._most_of_late()), self._clock()

    def leave(self, lease: Lease) -> None:
        self._heavy.discard(lease)
        self._light.discard(lease)

    def _most_of_late(self) -> float:
        """Places that those who have taken little held at once; halves as what clients took does."""
        return self._most_light * math.pow(0.5, (self._clock() - self._most_at) / HALF_LIFE_S)
