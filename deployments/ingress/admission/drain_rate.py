"""How fast a lane drains: the seconds from one departure to the next, measured while it was full."""

WEIGHT = 0.1
"""Of the newest departure in the moving averages."""


class DrainRate:
    """Learns from those who leave; what was seen under full load counts more than what was seen at ease."""

    def __init__(self) -> None:
        self._stay_s: float | None = None
        self._gap_s: float | None = None
        self._full_since: float | None = None

    def left(self, stayed_s: float, now: float, *, full: bool) -> None:
        """A request has left after `stayed_s`. `full`: others wait, or could not have come in a moment ago."""
        self._stay_s = moved(self._stay_s, stayed_s, WEIGHT)
        if full and self._full_since is not None:
            self._gap_s = moved(self._gap_s, now - self._full_since, WEIGHT)
        self._full_since = now if full else None

    def seconds_per_departure(self, ages_s: list[float]) -> float:
        """Of a full lane whose running requests are as old as this. While nobody leaves, it grows.

        Where no gap under load was seen, Little's law gives it: how long requests stay, over how many do at once.
        """
        if not ages_s:
            return 0.0
        known_s = self._gap_s if self._gap_s is not None else (self._stay_s or 0.0) / len(ages_s)
        return max(known_s, sum(ages_s) / len(ages_s) ** 2)


def moved(mean: float | None, newest: float, weight: float) -> float:
    """An exponentially weighted mean, one value further."""
    return newest if mean is None else mean + weight * (newest - mean)
