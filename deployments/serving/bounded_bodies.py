"""Serve's own proxy with a limit on the bytes of a body: 413, before a byte of one that declares more has been read.

The proxy reads bodies as fast as they come and keeps what the ingress has not asked for yet, without an end. The
ingress' own limits, by route, hold as well: this one is the largest of them.
"""

import os

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.config import MIB, IngressConfig
from deployments.core.declared_length import declares_more
from deployments.serving.front_errors import error_body

VARIABLE = "SLUICE_MAX_BODY_BYTES"
"""Of the environment, for servers whose settings allow more than the default ones."""
DEFAULT_MAX_BYTES = 513 * MIB
"""A file for a batch, and the form around it."""


def variables(config: IngressConfig) -> dict[str, str]:
    """Of the environment of a proxy before an ingress with these settings."""
    largest_file = 0 if config.batch_folder is None else config.max_batch_file_bytes
    return {VARIABLE: str(max(config.max_body_bytes, largest_file) + MIB)}


def max_body_bytes() -> int:
    return int(os.environ.get(VARIABLE, DEFAULT_MAX_BYTES))


class BoundedBodies:
    """Around the proxy."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if declares_more(Headers(scope=scope).get("content-length", ""), self._max_bytes):
            await self._refuse(send)
            return
        body = _Counted(receive, send, self._max_bytes)
        await self._app(scope, body.receive, body.send)
        if body.is_too_large and not body.is_answered:
            await self._refuse(send)

    async def _refuse(self, send: Send) -> None:
        message = f"a body may have {self._max_bytes} bytes at most"
        body = error_body(message, "invalid_request_error", "too_large")
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": body})


class _Counted:
    """One body without a length. The proxy is told that the client has gone, and what it says to that goes nowhere."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int) -> None:
        self._receive, self._send, self._left = receive, send, max_bytes
        self.is_too_large = self.is_answered = False

    async def receive(self) -> Message:
        if not self.is_too_large:
            message = await self._receive()
            self._left -= len(message.get("body", b""))
            self.is_too_large = self._left < 0
        return {"type": "http.disconnect"} if self.is_too_large else message

    async def send(self, message: Message) -> None:
        if not self.is_too_large or self.is_answered:
            self.is_answered = True
            await self._send(message)
