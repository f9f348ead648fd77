"""SHA-256 of an item's bytes, made on the stage's threads while further bytes arrive: the event loop hashes nothing."""

import asyncio
import hashlib

from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.fetcher.blob import MIB, Bytes

_PIECE_BYTES = 4 * MIB
"""Large enough that crossing to a thread costs nothing beside it, small enough to be still in the cache."""


class RunningDigest:
    """Of bytes that come to lie one after the other in `buffer`, uint8 (n,)."""

    def __init__(self, buffer: Bytes, executor: StageExecutor, deadline: Deadline) -> None:
        self._buffer = buffer
        self._executor = executor
        self._deadline = Deadline(deadline.remaining_s(), deadline.stage)  # stopping it ends nothing else
        self._sha = hashlib.sha256()
        self._hashed = 0
        self._working: asyncio.Task[None] | None = None

    def arrived(self, size: int) -> None:
        """The first `size` bytes are there."""
        busy = self._working is not None and not self._working.done()
        if size - self._hashed >= _PIECE_BYTES and not busy:
            self._begin(size)

    async def finish(self, size: int) -> str:
        """Hexadecimal, of the first `size` bytes, which are all. Raises what the deadline raises."""
        while self._working is not None or self._hashed < size:
            if self._working is None:
                self._begin(size)
            assert self._working is not None
            await self._working
            self._working = None
        return self._sha.hexdigest()

    def close(self) -> None:
        """Nobody wants it any more; a second time, or after `finish`, it does nothing."""
        if self._working is not None:
            self._working.cancel()

    def _begin(self, size: int) -> None:
        piece = self._buffer[self._hashed : size]
        self._hashed = size
        self._working = asyncio.create_task(self._executor.run(self._deadline, self._sha.update, piece.data))


def digest_of(data: Bytes) -> str:
    """The same of bytes that are all there. Blocking."""
    return hashlib.sha256(data.data).hexdigest()
