"""uvicorn's HTTP protocol with a limit on the bytes and on the time of a request's head: 431 and 408."""

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deployments.serving.front_errors import error_body

MAX_HEAD_BYTES = 64 * 2**10
HEAD_TIMEOUT_S = 30.0

_SAID = {
    431: ("Request Header Fields Too Large", f"the request line and headers may hold at most {MAX_HEAD_BYTES} bytes"),
    408: ("Request Timeout", f"the request line and headers must come within {HEAD_TIMEOUT_S:.0f} seconds"),
}


class BoundedHttp(HttpToolsProtocol):
    """One connection. A head that is refused ends it."""

    head_timeout_s = HEAD_TIMEOUT_S
    _head_bytes = 0
    """Of the head that is being read, as far as it has come."""
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._start_timer()
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size <= MAX_HEAD_BYTES:
            super().on_headers_complete()
            return
        application, self.app = self.app, _too_large
        super().on_headers_complete()
        self.app = application

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._refuse, 408)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing():
            return
        if not self._head_bytes:  # nobody asked anything
            self.transport.close()
            return
        phrase, _ = _SAID[status]
        body = _body(status)
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()


def _body(status: int) -> bytes:
    return error_body(_SAID[status][1], "invalid_request_error", "invalid_request")


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    headers: list[Any] = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 431, "headers": headers})
    await send({"type": "http.response.body", "body": _body(431)})
