"""Serve's own HTTP proxy, bounded and polite: what Ray calls in each process that listens.

Named to Ray by `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` (in `controller_options` of the config file), it is called
before the proxy listens. uvicorn has no limit for a request's head, and joins each piece of an endless header line to
the ones before; and the proxy words its own errors as plain text.
"""

import logging
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

from deployments.serving.bounded_bodies import BoundedBodies, max_body_bytes
from deployments.serving.front_errors import error_body
from deployments.serving.haproxy import RETRY_AFTER_S

logger = logging.getLogger("ray.serve")

_OWN_PATHS = "/-/"
"""Serve's health and routes; asked by machines that know them as they are."""
_MAX_SAID_BYTES = 4096
_LOST = ("died", "unavailable", "not available", "no replicas", "dead")
_REDIRECTED = {404: ("not_found_error", "not_found"), 408: ("timeout_error", "timeout")}


def middlewares() -> list[Middleware]:
    """Bound the heads and bodies of all requests that this process will read, and put the proxy's errors into OpenAI's
    shape.
    """
    HTTP_PROTOCOLS["auto"] = "deployments.serving.bounded_http:BoundedHttp"
    return [Middleware(BoundedBodies, max_bytes=max_body_bytes()), Middleware(OpenAIErrors)]


class OpenAIErrors:
    """Around the proxy: its own errors, plain text, become `{"error": {...}}`; the application's stay as they are."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_OWN_PATHS):
            await self._app(scope, receive, send)
            return
        readable = [pair for pair in scope["headers"] if _is_text(*pair)]
        rewording = _Rewording(send)
        said = "the ingress died"  # of a request that the proxy leaves without a word
        try:
            await self._app({**scope, "headers": readable}, receive, rewording)
        except Exception as error:
            if rewording.has_begun:
                raise
            logger.exception("the proxy failed")
            said = repr(error)
        finally:
            await rewording.end(said)


def _is_text(name: bytes, value: bytes) -> bool:
    """The proxy reads names, and values of its own headers, as UTF-8, and fails where they are not."""
    try:
        (name + value).decode()
    except UnicodeDecodeError:
        return False
    return True


class _Rewording:
    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False
        """Whether the client has been told anything."""
        self._held: Message | None = None
        self._said = b""

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start" and self._is_the_proxys(message):
            self._held = message
        elif self._held is None:
            self.has_begun = True
            await self._send(message)
        else:
            self._said = (self._said + message.get("body", b""))[:_MAX_SAID_BYTES]
            if not message.get("more_body", False):
                await self.answer(self._held, self._said.decode("utf-8", "replace"))

    async def end(self, said: str) -> None:
        """Nothing more comes: `said` is the answer where the client has been told nothing."""
        if not self.has_begun:
            await self.answer({"type": "http.response.start", "status": 500, "headers": []}, said)

    @staticmethod
    def _is_the_proxys(message: Message) -> bool:
        if message["status"] < 400:
            return False
        kind = Headers(raw=message["headers"]).get("content-type", "text/plain")
        return kind.startswith("text/plain")

    async def answer(self, start: Message, said: str) -> None:
        """`start` in OpenAI's words; `said`: what it would have been."""
        self.has_begun = True
        status, extra = start["status"], []
        if status >= 500 and (status == 503 or any(word in said.lower() for word in _LOST)):
            status, kind, code, text = 503, "server_error", "stage_unavailable", "the ingress was lost, or is starting"
            extra = [(b"retry-after", str(RETRY_AFTER_S).encode())]
        elif status >= 500:
            kind, code, text = "server_error", "internal_error", "the proxy failed to pass the request on"
        else:
            kind, code = _REDIRECTED.get(status, ("invalid_request_error", "invalid_request"))
            text = said.splitlines()[0][:200] if said else "the request was refused"
        body = error_body(text, kind, code)
        kept = [pair for pair in start["headers"] if pair[0].lower() not in (b"content-type", b"content-length")]
        own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send({**start, "status": status, "headers": [*kept, *own, *extra]})
        await self._send({"type": "http.response.body", "body": body})
