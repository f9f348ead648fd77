"""One HTTP exchange: who asks, under which id, how long it may take, and what has been sent."""

import re
import time
import uuid
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Scope, Send

from deployments.config import IngressConfig
from deployments.core.deadline import Deadline
from deployments.errors import BadRequest, SluiceError, WorkCancelled
from deployments.ingress.http.clients import ON_BEHALF_OF
from deployments.ingress.http.json_responses import error_document
from deployments.ingress.http.timing import Timings
from deployments.observability.spans import NO_SPAN, Span
from deployments.types import StageName

STAGE = StageName.INGRESS


class ClientGone(WorkCancelled):
    """Nobody is left to answer to."""


_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(slots=True)
class Exchange:
    """Made when a request arrives; `facts` go to its line in the log."""

    id: str
    scope: Scope
    send_raw: Send
    set_request_id: bool
    span: Span = NO_SPAN
    """The request's part in a trace."""
    timings: Timings = field(default_factory=Timings)
    started_at: float = field(default_factory=time.monotonic)
    status: int | None = None
    answered: bool = False
    """Whether the last byte of the answer has been handed on."""
    refused: bool = False
    """Whether it was sent away for want of room."""
    model: str | None = None
    """Which of the server's models is asked; None while that is not known, and of requests that ask none."""
    facts: dict[str, Any] = field(default_factory=dict)
    error_document: Callable[[SluiceError], dict[str, Any]] = error_document
    """How the API that was asked words errors."""

    async def send(self, message: Message) -> None:
        """Pass on what the application sends, with the headers that every answer carries."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            if self.set_request_id:
                headers["x-request-id"] = self.id
            if self.span.traceparent is not None:
                headers["traceresponse"] = headers["traceparent"] = self.span.traceparent
            if self.timings.seconds:
                headers["server-timing"] = self.timings.header()
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.answered = True
        await self.send_raw(message)

    @property
    def background(self) -> bool:
        """Whether nobody waits for the answer: a line of a batch."""
        return ON_BEHALF_OF in self.scope

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_at


def request_id(headers: Headers) -> str:
    """The client's own when it is harmless, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def request_deadline(headers: Headers, config: IngressConfig) -> Deadline:
    """The server's budget, which clients may shorten by `x-request-timeout-s`. Raises `BadRequest` for nonsense.

    Ray's own header `x-request-timeout-seconds` shortens it too; what Ray makes of odd values does not lengthen it.
    """
    seconds = config.request_timeout_s
    for name in ("x-request-timeout-s", "x-request-timeout-seconds"):
        if name in headers:
            asked = _positive(headers[name])
            if asked is None and name == "x-request-timeout-s":
                raise BadRequest("the header x-request-timeout-s must be a positive number of seconds")
            seconds = min(seconds, asked or seconds)
    return Deadline(seconds, STAGE)


def wants_reuse(headers: Headers) -> bool:
    """False with `x-sluice-cache: off`. Raises `BadRequest` for anything but `on` and `off`."""
    asked = headers.get("x-sluice-cache", "on").strip().lower()
    if asked not in ("on", "off"):
        raise BadRequest("the header x-sluice-cache must be `on` or `off`")
    return asked == "on"


def exchange_of(scope: MutableMapping[str, Any]) -> Exchange:
    """The exchange that `scope` belongs to."""
    exchange = scope["sluice.exchange"]
    assert isinstance(exchange, Exchange)
    return exchange


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value > 0 else None
