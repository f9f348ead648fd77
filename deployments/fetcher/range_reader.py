"""Several ranges of one remote file at once, put together where they will stay."""

import asyncio
from collections.abc import Sequence

from deployments.core.deadline import Deadline
from deployments.core.shared_budget import SharedBudget
from deployments.errors import BadRequest
from deployments.fetcher.blob import Bytes, lazy_buffer
from deployments.fetcher.client import HttpClient
from deployments.fetcher.ranges import RangesRefused
from deployments.types import RemoteFile

AT_ONCE = 6
"""Requests for one file under way, as many connections as browsers open to one host."""


class RangeReader:
    def __init__(self, http: HttpClient, room: SharedBudget) -> None:
        """`room`: for what arrives."""
        self._http = http
        self._room = room

    async def read(self, file: RemoteFile, ranges: Sequence[tuple[int, int]], deadline: Deadline) -> Bytes | None:
        """Bytes `start` to `stop` (exclusive) for each range, one after the other; None when the host has no ranges.

        The first failure ends the other requests and is raised.
        """
        sizes = [stop - start for start, stop in ranges]
        if min(sizes, default=0) <= 0 or sum(sizes) > file.max_read_bytes:
            raise BadRequest("is asked for ranges that it does not have")
        data, turn, places = lazy_buffer(sum(sizes)), asyncio.Lock(), asyncio.Semaphore(AT_ONCE)
        host = self._http.urls.parse(file.url).host
        with self._room.open(f"client {file.client}", f"host {host}") as lease:

            async def grow(amount: int) -> None:
                async with turn:  # a lease waits for one thing at a time
                    await lease.grow(amount)

            async def one(start: int, into: Bytes) -> None:
                async with places:
                    await self._http.read_range(file, start, into, deadline, grow)

            try:
                async with asyncio.TaskGroup() as group:
                    at = 0
                    for (start, _), size in zip(ranges, sizes, strict=True):
                        group.create_task(one(start, data[at : at + size]))
                        at += size
            except BaseExceptionGroup as failures:
                if isinstance(failures.exceptions[0], RangesRefused):
                    return None
                raise failures.exceptions[0] from None
            lease.keep_for(data)
        data.flags.writeable = False
        return data
