"""How fast a replica gets through its work, in the work's own unit, by what it did of late."""


class WorkRate:
    """Work over seconds, each a sum that fades: a large piece counts as much more than a small one as it took longer.

    A mean of single rates would let many tiny pieces, mostly overhead, pass for a slow machine.
    """

    def __init__(self, memory: float) -> None:
        """`memory`: what a piece still counts one piece later, between 0 and 1."""
        self._memory = memory
        self._work = self._seconds = 0.0

    def did(self, work: float, seconds: float) -> None:
        self._work = self._memory * self._work + work
        self._seconds = self._memory * self._seconds + seconds

    def seconds_for(self, work: float) -> float | None:
        """None before any work was done."""
        return work * self._seconds / self._work if self._work else None
