"""A request that nobody sent, put to the application as if it had come over HTTP: it is treated like any other."""

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

from deployments.ingress.http.clients import ON_BEHALF_OF
from deployments.ingress.http.exchange import exchange_of
from deployments.ingress.http.timing import Timings
from deployments.types import StageName

CHUNK_BYTES = 64 * 1024
RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Headers
    body: bytes
    timings: Timings
    error: str | None
    """Its code, of an answer that is one."""

    @property
    def retry_after_s(self) -> float:
        said = self.headers.get("retry-after", "")
        return float(said) if said.isdigit() else RETRY_AFTER_S

    @property
    def waited_s(self) -> float:
        """Within the stages, not for admission."""
        return sum(seconds for stage, seconds in self.timings.waits.items() if stage != StageName.ADMISSION)

    @property
    def admission_s(self) -> float:
        return self.timings.seconds.get(StageName.ADMISSION, 0.0)

    @property
    def worked_s(self) -> float:
        seconds = (seconds for stage, seconds in self.timings.seconds.items() if stage != StageName.ADMISSION)
        return max(0.0, sum(seconds) - self.waited_s)


async def ask(app: ASGIApp, path: str, body: bytes, client: str, request_id: str) -> Reply:
    """`client`: on whose behalf; a key is not needed."""
    headers = {"content-type": "application/json", "content-length": str(len(body)), "x-request-id": request_id}
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": None,
        "server": None,
        ON_BEHALF_OF: client,
    }
    starts = iter(range(0, len(body), CHUNK_BYTES))
    sent: list[Message] = []

    async def receive() -> Message:
        start = next(starts, None)
        if start is None:
            await asyncio.Event().wait()  # whoever reads on wants to know when this client hangs up: it never does
        end = (start or 0) + CHUNK_BYTES
        return {"type": "http.request", "body": body[start:end], "more_body": end < len(body)}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    opening, exchange = sent[0], exchange_of(scope)
    whole = b"".join(message.get("body", b"") for message in sent[1:])
    answered = Headers(raw=opening["headers"])
    return Reply(opening["status"], answered, whole, exchange.timings, exchange.facts.get("error"))
