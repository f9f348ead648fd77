"""Work of one request side by side: what fails first ends the rest, and is what is raised."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results of `work` in order; the first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


@asynccontextmanager
async def beside(work: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Does `work` while the block is under way; what it is given waits for the end of that, and so does its own end.

    The first failure, of the block or of `work`, cancels the other and is raised.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]

            async def done() -> None:
                await asyncio.gather(*tasks)

            yield done
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
