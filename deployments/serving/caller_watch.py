"""Work for a caller that has died is stopped. Knows no Ray: whether a caller lives is asked of a function.

A stage is told when a caller cancels, and not when the caller's process dies: what it had asked for would go on to its
end, a long answer of the model for minutes.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 2.0
"""Between two looks at the callers whose work goes on; most work is over before the first one."""


class CallerWatch:
    """One for a process; used from one event loop."""

    def __init__(self, is_alive: Callable[[str], bool], look_s: float = LOOK_S) -> None:
        """`is_alive(caller)` may block for a moment; it is called on a thread."""
        self._is_alive, self._look_s = is_alive, look_s
        self._working: dict[str, set[asyncio.Task[object]]] = {}
        self._looking: asyncio.Task[None] | None = None

    @contextmanager
    def working_for(self, caller: str | None) -> Iterator[None]:
        """The task that runs this block is cancelled if `caller` dies meanwhile; None is nobody who could."""
        task = asyncio.current_task()
        if caller is None or task is None:
            yield
            return
        tasks = self._working.setdefault(caller, set())
        tasks.add(task)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            tasks.discard(task)
            if not tasks and self._working.get(caller) is tasks:
                del self._working[caller]

    async def _look(self) -> None:
        while self._working:
            await asyncio.sleep(self._look_s)
            for caller in list(self._working):
                if not await asyncio.to_thread(self._is_alive, caller):
                    for task in tuple(self._working.get(caller, ())):
                        task.cancel()
