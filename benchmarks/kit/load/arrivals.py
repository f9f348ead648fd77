"""When requests start: an open loop, which does not wait for answers, or a closed one, which always has N under way."""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """`rate` requests a second on the average for `duration_s`, as a Poisson process: independent users."""

    rate: float
    duration_s: float

    def due_s(self, seed: int) -> Iterator[float]:
        """Ascending seconds since the start; the same ones for the same seed."""
        source = random.Random(f"arrivals {seed} {self.rate}")
        due = source.expovariate(self.rate)
        while due < self.duration_s:
            yield due
            due += source.expovariate(self.rate)


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`concurrency` users, each of whom asks again as soon as it is answered, until `duration_s` is over.

    A user who is refused asks the same again after as long as the server says; latencies count from the first time.
    """

    concurrency: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Burst:
    """`count` requests at regular intervals within `duration_s`, and then no more."""

    count: int
    duration_s: float

    def due_s(self, seed: int) -> Iterator[float]:
        """As `OpenLoop.due_s`; the same ones for every seed."""
        return (number * self.duration_s / self.count for number in range(self.count))


Arrivals = OpenLoop | ClosedLoop | Burst
