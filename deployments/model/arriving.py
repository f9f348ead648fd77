"""What follows a request's call: the groups of a clip's frames that its decoders had not made yet."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.errors import SluiceError, StageTimeout
from deployments.model.multimodal.arrivals import Arrivals
from deployments.model.multimodal.pixels import expect_clip
from deployments.types import StageName

Tensors = dict[str, NDArray[Any]]
Clip = dict[str, NDArray[Any]]


class Arriving:
    """Brings them to the engine, beside the request's waiting for tokens. On the event loop."""

    def __init__(self, arrivals: Arrivals, later: AsyncIterator[Clip], began: float) -> None:
        self.arrivals = arrivals
        self._later = later
        self._began = began
        self._task: asyncio.Task[None] | None = None
        self.took_s: float | None = None
        """From the beginning until all had come; None before."""

    @classmethod
    async def begin(cls, tensors: Tensors, later: AsyncIterator[Clip], deadline: Deadline) -> "Arriving":
        """Wait for the first group, for which and the others there is room in `tensors` then.

        Raises `StageTimeout`, and what getting them raises.
        """
        began = time.monotonic()
        async with _within(deadline):
            first = await anext(later)
        return cls(await asyncio.to_thread(expect_clip, tensors, first), later, began)

    async def all(self, deadline: Deadline) -> None:
        """Wait for the others. Raises likewise."""
        async with _within(deadline):
            await self._fill(lambda: None)

    def start(self, came: Callable[[], object], failed: Callable[[SluiceError], object]) -> None:
        """Fill in what comes from now on; `came()` after each group. `failed`: told of what getting them raises."""

        async def filling() -> None:
            try:
                await self._fill(came)
            except SluiceError as error:
                failed(error)

        self._task = asyncio.create_task(filling())

    def close(self) -> None:
        """Nobody waits for the rest."""
        if self._task is not None:
            self._task.cancel()

    async def _fill(self, came: Callable[[], object]) -> None:
        async for clip in self._later:
            await asyncio.to_thread(self.arrivals.add, clip.pop("patches"))
            came()
        self.arrivals.check_complete()
        self.took_s = time.monotonic() - self._began


@asynccontextmanager
async def _within(deadline: Deadline) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            yield
    except TimeoutError:
        raise StageTimeout(StageName.MODEL) from None
