"""Stages that were scaled to nothing: asked for, so that they start, and how long that takes.

Serve starts a replica for a call that waits for one. A client's request could be that call, but it would wait for as
long as a model takes to load, with its media in memory, and go for nothing when its time is over. So the call that
waits is a small one of our own, one for each stage, and the client is told when to come back.
"""

import asyncio
from collections.abc import Awaitable, Callable

Wake = Callable[[str], Awaitable[None]]
"""Calls the deployment of that name; returns when a replica of it has answered. Raises `ConnectionError`."""

FIRST_GUESS_S = 10.0
"""How long a stage takes to start, until one was seen doing it."""
SHORTEST_S = 1.0
GIVE_UP_S = 900.0
"""A stage that has not answered by then is not waited for any more, until somebody asks for it again."""


class Waking:
    """One for an ingress replica, used on its event loop."""

    def __init__(self, wake: Wake, woken: Callable[[], Awaitable[None]], clock: Callable[[], float]) -> None:
        """`woken()` is awaited when a stage has answered."""
        self._wake, self._woken, self._clock = wake, woken, clock
        self._begun: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._took_s: dict[str, float] = {}

    def ask_for(self, stage: str) -> None:
        """Make it start; nothing where that is under way."""
        if stage not in self._begun:
            self._begun[stage] = self._clock(), asyncio.create_task(self._start(stage))

    def left_s(self, stage: str) -> float | None:
        """How long it will probably be until `stage` answers; None where it was not asked for here."""
        if stage not in self._begun:
            return None
        waited_s = self._clock() - self._begun[stage][0]
        takes_s = self._took_s.get(stage, FIRST_GUESS_S)
        return max(SHORTEST_S, takes_s - waited_s)

    async def close(self) -> None:
        """Wait for none of them any more."""
        tasks = [task for _, task in self._begun.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self, stage: str) -> None:
        began = self._clock()
        try:
            async with asyncio.timeout(GIVE_UP_S):
                await self._wake(stage)
            self._took_s[stage] = self._clock() - began
            await self._woken()
        except (ConnectionError, TimeoutError):
            return  # whoever asks next is the next to make it start
        finally:
            del self._begun[stage]


async def nothing_to_wake(stage: str) -> None:
    """A `Wake` for applications whose stages are always there."""
