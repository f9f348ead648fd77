"""How much each client has taken of late, in seconds: who has taken little goes before who has taken much.

This is fair-share scheduling by decayed usage (Kay and Lauder, "A fair share scheduler", 1988), which language models
have counted in tokens (Sheng et al., "Fairness in serving large language models", OSDI 2024). A turn each would be fair
only if all requests took the same: a media host that drips takes a hundred times what a question of ten words does, and
who asks for it would have ninety-nine hundredths of the server.

What a request takes is known when it ends. Until then it counts as much as its client's took on the average, or as much
as it has taken already.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from deployments.ingress.admission.drain_rate import moved
from deployments.ingress.admission.lease import Lease

HALF_LIFE_S = 15.0
"""In which half of what a client took is forgotten."""
ABSENT_S = 60.0
"""A client that has not asked for so long is forgotten, with the sixteenth that is left by then."""
MOST_CLIENTS = 4096
"""That are remembered at once; of more, those who have been away longest are forgotten."""
FIRST_COST_S = 1.0
"""Of a request, while none has ended."""
LEAST_S = 0.05
"""A request counts this much at least."""
WEIGHT = 0.1
"""Of the newest request in the averages."""
LOOK_S = 0.5
"""From one look at what runs to the next."""
MEAN_KEPT_S = 0.5
"""For which the mean over all clients keeps what they had, but for those of whom there is news."""
_ROUNDING = 1e-6


@dataclass(slots=True)
class _Taken:
    seconds: float
    at: float
    """When it was so many."""

    def now(self, now: float) -> float:
        return self.seconds * math.pow(0.5, (now - self.at) / HALF_LIFE_S)


@dataclass(slots=True)
class _Client:
    taken: _Taken
    asked_at: float
    cost_s: float | None = None
    """What one of its requests takes on the average; None while none has ended."""
    log: float = 0.0
    """Of what it will have taken after its next request, as it stands in the mean of all."""


class ClientUsage:
    """One for the lanes that share stages. Time comes from `clock`, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._clients: OrderedDict[str, _Client] = OrderedDict()  # who has been away longest stands first
        self._cost_s = FIRST_COST_S
        self._logs, self._logs_at = 0.0, clock()
        self._looked_at = clock()

    def __len__(self) -> int:
        return len(self._clients)

    def seconds(self, client: str) -> float:
        """What `client` has taken of late; 0 of one that is not known."""
        known = self._clients.get(client)
        return 0.0 if known is None else known.taken.now(self._clock())

    def expected_s(self, client: str) -> float:
        """What a request of `client` takes, by those that have ended; of a client that is not known, as anybody's."""
        known = self._clients.get(client)
        return max(LEAST_S, self._cost_s if known is None else known.cost_s or self._cost_s)

    def after_s(self, client: str, requests: int = 1) -> float:
        """What `client` will have taken once so many more of its requests are done (their finish tag, where queueing is
        weighted)."""
        known = self._clients.get(client)
        if known is None:
            return requests * max(LEAST_S, self._cost_s)
        return known.taken.now(self._clock()) + requests * max(LEAST_S, known.cost_s or self._cost_s)

    def is_heavy(self, client: str) -> bool:
        """Whether `client` will then have taken more than the mean of those who were there of late; alone it has not.

        The mean is geometric: beside one that takes all there is, one that takes a tenth of that would look modest.
        """
        if self._clock() >= self._logs_at + MEAN_KEPT_S:
            self._sum_up()
        return self.after_s(client) > math.exp(self._logs / max(1, len(self._clients))) * (1 + _ROUNDING)

    def asks(self, client: str) -> None:
        """It is still there, whether it is let in or not."""
        known = self._clients.get(client)
        if known is not None:
            known.asked_at = self._clock()
            self._clients.move_to_end(client)

    def begin(self, lease: Lease) -> None:
        """It counts as much as is expected of it."""
        lease.charged_s = self.expected_s(lease.client)
        self._charge(lease.client, lease.charged_s)

    def look(self, leases: Iterable[Lease]) -> None:
        """Which have not ended: who has taken more than was expected counts as much; done once in `LOOK_S`."""
        now = self._clock()
        if now < self._looked_at + LOOK_S:
            return
        self._looked_at = now
        for lease in leases:
            more_s = lease.took_s - lease.charged_s
            if more_s > 0:
                self._charge(lease.client, more_s)
                lease.charged_s += more_s

    def end(self, lease: Lease) -> None:
        """It counts what it took."""
        took_s = lease.took_s
        known = self._charge(lease.client, took_s - lease.charged_s)
        known.cost_s = moved(known.cost_s, took_s, WEIGHT)
        self._put_log(known, self._clock())
        self._cost_s *= (max(took_s, LEAST_S) / self._cost_s) ** WEIGHT

    def _charge(self, client: str, seconds: float) -> _Client:
        now = self._clock()
        known = self._clients.setdefault(client, _Client(_Taken(0.0, now), now))
        known.taken = _Taken(max(0.0, known.taken.now(now) + seconds), now)
        self.asks(client)
        self._put_log(known, now)
        self._forget(now)
        return known

    def _forget(self, now: float) -> None:
        while len(self._clients) > MOST_CLIENTS or next(iter(self._clients.values())).asked_at < now - ABSENT_S:
            _, gone = self._clients.popitem(last=False)
            self._logs -= gone.log

    def _sum_up(self) -> None:
        """All have become less meanwhile."""
        self._logs_at = self._clock()
        for known in self._clients.values():
            self._put_log(known, self._logs_at)

    def _put_log(self, known: _Client, now: float) -> None:
        self._logs -= known.log
        known.log = math.log(known.taken.now(now) + max(LEAST_S, known.cost_s or self._cost_s))
        self._logs += known.log
