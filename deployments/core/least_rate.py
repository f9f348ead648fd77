"""The least rate at which a peer must send: who sends a byte a second holds room, a connection and a place for ever."""


class LeastRate:
    """Judged by windows, so that a fast beginning does not pay for a slow end."""

    def __init__(self, bytes_per_s: float, window_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self.window_s = window_s
        self._bytes = 0
        self._seconds = 0.0

    def keeps_up(self, size_bytes: int, waited_s: float) -> bool:
        """Whether the peer is fast enough, now that `size_bytes` have come after waiting for them for `waited_s`."""
        self._bytes += size_bytes
        self._seconds += waited_s
        if self._seconds < self.window_s:
            return True
        fast = self._bytes >= self._bytes_per_s * self._seconds
        self._bytes, self._seconds = 0, 0.0
        return fast
