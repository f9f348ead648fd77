"""The right to run, and who waits for it."""

import asyncio
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

LONE = 2
"""Requests that run with no more than so many, this one included, show what the work itself takes."""


class Lane(Protocol):
    """Whoever grants leases."""

    def clock(self) -> float: ...

    def crowd(self) -> int:
        """How many run in this lane and in those that share its stages."""
        ...

    def recount(self, lease: "Lease", more_bytes: int) -> None:
        """`lease` holds so many bytes more."""
        ...

    def leave_place(self, lease: "Lease", *, served: bool) -> None:
        """`lease` no longer counts as running. `served`: it has its first token."""
        ...

    def leave_client(self, lease: "Lease") -> None:
        """`lease` no longer counts as its client's."""
        ...


class Lease:
    """The right to run, in a `with` block: its place is given back at the first token, and all of it at the end."""

    def __init__(self, lane: Lane, client: str, size_bytes: int, background: bool = False) -> None:
        self._lane = lane
        self.client = client
        self.background = background
        self.size_bytes = size_bytes
        self.granted_at = lane.clock()
        self.came_alone = lane.crowd() < LONE
        self.outside_s = 0.0
        """Time of media hosts: no measure of how fast this application is."""
        self.waited_s = 0.0
        """Time in which its work waited for others' inside the stages."""
        self.answers = 1
        """That are generated side by side."""
        self.charged_s = 0.0
        """What it counts at present of what its client has taken."""
        self._answering_since: float | None = None
        self._released = False

    @property
    def took_s(self) -> float:
        """What it has taken until now: the time of a place, a media host's included, and then that of its answers."""
        now = self._lane.clock()
        answering_since = now if self._answering_since is None else self._answering_since
        alone_s = max(0.0, answering_since - self.granted_at - self.waited_s)
        return alone_s + self.answers * (now - answering_since)

    def resize(self, size_bytes: int) -> None:
        """What was estimated is now counted. Growing never waits: the bytes are there already."""
        if self._answering_since is None and not self._released:
            size_bytes = max(size_bytes, 0)
            more_bytes, self.size_bytes = size_bytes - self.size_bytes, size_bytes
            self._lane.recount(self, more_bytes)

    def first_token(self) -> None:
        """The place and the bytes are the next one's from now on; the client's share is kept until `release()`."""
        if self._answering_since is None and not self._released:
            self._answering_since = self._lane.clock()
            self._lane.leave_place(self, served=True)

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._lane.leave_client(self)
            if self._answering_since is None:
                self._lane.leave_place(self, served=False)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """Stands in a queue until `lease` is done."""

    client: str
    size_bytes: int
    joined_at: float
    gives_up_at: float
    background: bool = False
    lease: "asyncio.Future[Lease]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
