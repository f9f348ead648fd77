"""Single flight: what several callers want at once is done once, and goes on as long as one of them wants it."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from deployments.core.deadline import Deadline
from deployments.errors import StageTimeout, StageUnavailable

T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: "asyncio.Task[T]"
    waiting: int = 0


class Flights(Generic[T]):
    """Work under way, by key. Nobody owns it: the one who started it may leave like any other."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    def under_way(self, key: Hashable) -> bool:
        return key in self._flights

    async def join(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]], deadline: Deadline) -> T:
        """The result of the work of this key, started now unless it is under way.

        Raises what the work raises, and `StageTimeout` at the caller's own deadline. When the last caller leaves,
        the work is cancelled.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(start()))
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        flight.waiting += 1
        try:
            await asyncio.wait({flight.task}, timeout=deadline.remaining_s())
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                del self._flights[key]  # nobody may join what is about to be cancelled
                flight.task.cancel()
        if not flight.task.done():
            raise StageTimeout(deadline.stage)
        if flight.task.cancelled():
            raise StageUnavailable("could not be fetched: this replica is shutting down")
        return flight.task.result()

    async def close(self) -> None:
        """Cancel what is under way and wait until it has ended."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, key: Hashable, task: "asyncio.Task[T]") -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # seen here, in case that every caller has left
