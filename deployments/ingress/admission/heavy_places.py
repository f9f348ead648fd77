"""How many requests those clients may have under way that have taken more than the mean, as long as others are there.

Turns alone do not help one who comes when all places are taken by requests that take long, nor one whose own short work
shares the cores with theirs. So, first, of a lane's places those stay open for the others that they have used of late,
and one more (max-min fairness: what they do not use is no loss to anyone). Second, how many the heavy ones may have
follows from how the others fare: each time that their first tokens come late it is halved, and else it grows. That is
what a background transfer does beside others' (LEDBAT, RFC 6817); but one place is always left.

While nobody else has been there of late, nobody is above the mean, and all places are everybody's.
"""

import math
from collections.abc import Callable

from deployments.ingress.admission.client_usage import HALF_LIFE_S, ClientUsage
from deployments.ingress.admission.concurrency_limit import GeometricMean
from deployments.ingress.admission.lease import Lease

MOST_KEPT = 0.5
"""Of a lane's places, at most, are kept from those who have taken much."""
LATE = 1.2
"""Times what the work itself takes to a first token, where that is more than the configured target, is late."""
SAMPLES = 3
"""First tokens of the others, of which the mean is judged."""
DOUBLED_IN_S = 90.0
"""What was halved grows again by itself: where hardly anybody else asks, nobody's first tokens tell that it may."""
_MOST_DOUBLINGS = 60.0


class HeavyPlaces:
    """Of one lane. Requests of the heavy count until the end of their answers."""

    def __init__(self, usage: ClientUsage, clock: Callable[[], float]) -> None:
        self._usage, self._clock = usage, clock
        self._heavy: set[Lease] = set()
        self._light: set[Lease] = set()
        self._most_light, self._most_at = 0.0, clock()
        self._allowed, self._halved_at = math.inf, clock()
        self._stays = GeometricMean()

    def __len__(self) -> int:
        """Requests of the heavy that have not ended."""
        return len(self._heavy)

    def may_begin(self, client: str, places: int) -> bool:
        """Whether one of `client` may run, of a lane of `places`, as far as others' parts are concerned."""
        if not self._usage.is_heavy(client):
            return True
        kept = min(int(MOST_KEPT * places), math.ceil(self._most_of_late()) + 1)
        return len(self._heavy) + 1 <= max(1, min(places - kept, self._allowed_now))

    def begin(self, lease: Lease) -> None:
        if self._usage.is_heavy(lease.client):
            self._heavy.add(lease)
        else:
            self._light.add(lease)
            self._most_light, self._most_at = max(len(self._light), self._most_of_late()), self._clock()

    def end(self, lease: Lease) -> None:
        self._heavy.discard(lease)

    def leave_place(self, lease: Lease) -> bool:
        """It has its first token, or will have none. Whether it was none of the heavy's."""
        was_light = lease in self._light
        self._light.discard(lease)
        return was_light

    def observe(self, lease: Lease, stayed_s: float, target_s: float, least_s: float) -> None:
        """One that was none of the heavy's had its first token after `stayed_s`; the work itself takes `least_s`."""
        if lease.granted_at < self._halved_at:
            return
        self._stays.add(stayed_s)
        if self._stays.count < SAMPLES:
            return
        if self._stays.take() > max(target_s, LATE * least_s):
            self._allowed = max(1.0, min(self._allowed_now, len(self._heavy)) / 2)
            self._halved_at = self._clock()

    @property
    def _allowed_now(self) -> float:
        doublings = min((self._clock() - self._halved_at) / DOUBLED_IN_S, _MOST_DOUBLINGS)
        return self._allowed * math.pow(2.0, doublings)

    def _most_of_late(self) -> float:
        """Places that those who have taken little held at once; halves as what clients took does."""
        return self._most_light * math.pow(0.5, (self._clock() - self._most_at) / HALF_LIFE_S)
