"""How fast a lane drains, by Little's law: how long requests stay, over how many stay at once."""

WEIGHT = 0.1
"""Of the newest request in the moving averages."""


class Pace:
    """Learns from those who leave; what was seen under full load counts more than what was seen at ease."""

    def __init__(self) -> None:
        self._at_ease_s: float | None = None
        self._under_load_s: float | None = None

    def left(self, stayed_s: float, *, full: bool) -> None:
        """A request has left after `stayed_s`; `full`: others waited or could not have come in meanwhile."""
        if full:
            self._under_load_s = _moved(self._under_load_s, stayed_s)
        else:
            self._at_ease_s = _moved(self._at_ease_s, stayed_s)

    def seconds_per_departure(self, ages_s: list[float]) -> float:
        """Of a full lane whose running requests are as old as this. While nobody leaves, it grows."""
        if not ages_s:
            return 0.0
        known_s = self._under_load_s if self._under_load_s is not None else self._at_ease_s
        return max(known_s or 0.0, sum(ages_s) / len(ages_s)) / len(ages_s)


def _moved(mean_s: float | None, newest_s: float) -> float:
    return newest_s if mean_s is None else mean_s + WEIGHT * (newest_s - mean_s)
