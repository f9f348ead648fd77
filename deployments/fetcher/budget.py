"""How many bytes of media a replica holds at once: an item starts to arrive only when there is room for all of it.

Taking everything before the first byte arrives means that items which hold a part never wait for each other.
"""

import asyncio
import weakref
from collections import deque
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Lease:
    """Room for some bytes: given back at the end of the `with` block, or when the array it was kept for is freed."""

    def __init__(self, budget: "ByteBudget", size_bytes: int) -> None:
        self._budget = budget
        self._held_bytes = size_bytes

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._budget.give_back(self._held_bytes)
        self._held_bytes = 0

    def keep_for(self, array: NDArray[Any]) -> None:
        """The array's bytes stay taken until its memory is freed; the rest goes back now."""
        owner = array if array.base is None else array.base
        weakref.finalize(owner, self._budget.give_back_from_any_thread, array.nbytes).atexit = False
        self._budget.give_back(self._held_bytes - array.nbytes)
        self._held_bytes = 0


class ByteBudget:
    """Room for `capacity_bytes`, given out first come, first served. Made and used on one event loop."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._loop = asyncio.get_running_loop()

    @property
    def used_bytes(self) -> int:
        return self._used

    async def take(self, size_bytes: int) -> Lease:
        """Wait until `size_bytes` fit. An item larger than the whole budget gets it when nothing else is held."""
        if self._waiting or not self._fits(size_bytes):
            turn: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append((size_bytes, turn))
            try:
                await turn
            except asyncio.CancelledError:
                self._leave(size_bytes, turn)
                raise
        else:
            self._used += size_bytes
        return Lease(self, size_bytes)

    def give_back(self, size_bytes: int) -> None:
        """On the event loop's own thread."""
        self._used -= size_bytes
        self._admit()

    def give_back_from_any_thread(self, size_bytes: int) -> None:
        """Arrays are freed where their last user lets go of them, which may be after the loop has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.give_back, size_bytes)

    def _fits(self, size_bytes: int) -> bool:
        return self._used == 0 or self._used + size_bytes <= self._capacity

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._fits(self._waiting[0][0])):
            size_bytes, turn = self._waiting.popleft()
            if not turn.cancelled():  # who was cancelled has not yet run to leave by itself
                self._used += size_bytes
                turn.set_result(None)

    def _leave(self, size_bytes: int, turn: "asyncio.Future[None]") -> None:
        if not turn.cancelled():
            self.give_back(size_bytes)  # the room came in the same moment as the cancellation
        elif (size_bytes, turn) in self._waiting:
            self._waiting.remove((size_bytes, turn))
            self._admit()


def lazy_buffer(size_bytes: int) -> NDArray[np.uint8]:
    """(size_bytes,), uninitialised: memory is taken from the system page by page, as it is written."""
    return np.empty(size_bytes, np.uint8)
