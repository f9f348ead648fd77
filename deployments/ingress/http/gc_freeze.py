"""Keeps full garbage collections short. What a replica holds after its first answers it holds for good: modules that
were imported on the way, caches, connections. Going over all of it would stop the event loop for 30 ms in a storm.
"""

import gc


class GcFreeze:
    """Sees to it once: after the first answers, as soon as nothing is under way."""

    def __init__(self) -> None:
        self._has_answered = self._is_settled = False

    def answered(self) -> None:
        self._has_answered = True

    def look(self, running: int) -> None:
        """`running`: requests under way. The one collection takes its time when nobody waits for it."""
        if self._has_answered and not self._is_settled and not running:
            self._is_settled = True
            gc.collect()
            gc.freeze()
