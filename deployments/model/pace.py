"""How many prompt tokens go between two decode steps: so many that those who decode are held up a little, no more.

The time of a chunk depends on machine, model and context, so that it is measured, not configured: the chunk grows while
it takes less than `STALL` decode steps and shrinks while it takes more. With nobody decoding it is the configured one.
"""

STALL = 1.0
"""A chunk's time in units of a decode step's: the time between two tokens stays below 1 + STALL steps."""
SMALLEST_CHUNK = 16
_FIRST_CHUNK = 64
_MEMORY = 0.9


class PrefillPace:
    """Belongs to the engine's thread. Durations in seconds."""

    def __init__(self, chunk_tokens: int) -> None:
        self._largest = chunk_tokens
        self._beside_decode = float(min(_FIRST_CHUNK, chunk_tokens))
        self._decode_s: float | None = None

    def budget(self, *, decoding: bool) -> int:
        """Prompt tokens of the coming step."""
        return int(self._beside_decode) if decoding else self._largest

    def decoded(self, seconds: float) -> None:
        """A decode step took so long."""
        self._decode_s = seconds if self._decode_s is None else _MEMORY * self._decode_s + (1 - _MEMORY) * seconds

    def prefilled(self, tokens: int, seconds: float) -> None:
        """A step's prefill of so many tokens beside running answers took so long."""
        if self._decode_s is None or tokens < SMALLEST_CHUNK:
            return
        wanted = tokens * min(1.5, max(0.5, STALL * self._decode_s / seconds))
        self._beside_decode = min(float(self._largest), max(float(min(SMALLEST_CHUNK, self._largest)), wanted))
