"""Bodies on their way in: room is taken as their bytes arrive, and who sends too slowly is sent away.

What is declared is a promise, and an idle upload keeps nobody out. Small bodies cost nothing here: only what goes
beyond the text that a body may hold passes through this process's memory in amounts that matter.
"""

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.types import Message, Receive

from deployments.config import IngressConfig
from deployments.core.least_rate import LeastRate
from deployments.core.shared_budget import Share, SharedBudget
from deployments.errors import Overloaded, TooSlow
from deployments.ingress.http.exchange import ClientGone

WINDOW_S = 10.0
"""Over which a client's rate is judged, and its longest silence within a body."""


class IncomingBodies:
    """The bodies that one ingress replica reads or holds."""

    def __init__(self, config: IngressConfig, window_s: float = WINDOW_S) -> None:
        self._config = config
        self._window_s = window_s
        self._room = SharedBudget(config.max_body_bytes_in_flight, reserve=config.max_body_bytes)

    @property
    def held_bytes(self) -> int:
        return self._room.used

    def open(self, client: str) -> Share:
        """For one body, to be released when its media have been shared or it is of no use any more."""
        return self._room.open(f"client {client}")

    async def chunks(self, receive: Receive, lease: Share | None) -> AsyncIterator[bytes]:
        """A body's pieces. Raises `ClientGone`, `TooSlow`, and `Overloaded` when no room comes free.

        `lease`: takes the room; None for a body of which nothing is kept in memory.
        """
        rate = LeastRate(self._config.min_body_rate_bytes_s, self._window_s)
        size = 0
        while True:
            message = await self._next(receive, rate)
            body: bytes = message.get("body", b"")
            size += len(body)
            more = 0 if lease is None else size - self._config.max_text_bytes - lease.held
            if lease is not None and more > 0:
                await self._grow(lease, more)
            yield body
            if not message.get("more_body", False):
                return

    async def _next(self, receive: Receive, rate: LeastRate) -> Message:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._window_s):
                message = await next_message(receive)
        except TimeoutError:
            raise self._too_slow() from None
        if message["type"] == "http.disconnect":
            raise ClientGone("the client has gone")
        if not rate.keeps_up(len(message.get("body", b"")), time.monotonic() - began):
            raise self._too_slow()
        return message

    async def _grow(self, lease: Share, more: int) -> None:
        try:
            async with asyncio.timeout(self._config.max_burst_wait_s):
                await lease.grow(more)
        except TimeoutError:
            raise Overloaded("the server is busy: other requests' bodies leave no room for this one") from None

    def _too_slow(self) -> TooSlow:
        return TooSlow(
            f"the body arrives too slowly: at least {self._config.min_body_rate_bytes_s} bytes a second are needed"
        )


async def next_message(receive: Receive) -> Message:
    """What the server around this application has to tell; where it fails to, the connection is gone: no defect."""
    try:
        return await receive()
    except Exception as error:
        raise ClientGone("the connection was lost") from error
