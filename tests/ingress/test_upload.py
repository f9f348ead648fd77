"""Bodies that arrive: promises keep nobody out, slow clients are sent away, lost connections are no defects."""

import asyncio
import logging

import pytest
from starlette.types import Message, Receive

from deployments.config import AppConfig, IngressConfig
from deployments.errors import Overloaded, TooSlow
from deployments.ingress.http.body import BodyScanner, read_body
from deployments.ingress.http.exchange import ClientGone
from deployments.ingress.http.upload import IncomingBodies
from tests.support.fakes import FakeApplication

LIMITS = IngressConfig(
    max_text_bytes=1000, max_body_bytes=10_000, max_body_bytes_in_flight=26_000, max_burst_wait_s=0.05
)
HEADERS = [(b"content-type", b"application/json")]
MEDIA = b'{"a": "data:image/png;base64,'


def scanner() -> BodyScanner:
    return BodyScanner(LIMITS.max_body_bytes, LIMITS.max_text_bytes)


def sending(*bodies: bytes, stays: bool = True) -> Receive:
    """Pieces of a body; after them nothing while the client `stays`, else the end."""
    messages = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    if not stays:
        messages[-1]["more_body"] = False

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(3600)
        raise AssertionError

    return receive


def whole(size: int) -> bytes:
    return MEDIA + b"A" * (size - len(MEDIA) - 2) + b'"}'


async def test_idle_uploads_keep_nobody_out() -> None:
    uploads = IncomingBodies(LIMITS)
    idle = [uploads.open(f"idle {i}") for i in range(50)]
    reading = [asyncio.create_task(read_body(uploads.chunks(sending(MEDIA), lease), scanner())) for lease in idle]
    await asyncio.sleep(0)
    with uploads.open("other") as lease:
        body = await read_body(uploads.chunks(sending(whole(8000), stays=False), lease), scanner())
        assert body.size_bytes == 8000
        assert uploads.held_bytes == 7000
    for task in reading:
        task.cancel()


async def test_one_client_that_fills_its_share_leaves_the_rest_to_others() -> None:
    uploads = IncomingBodies(LIMITS)
    greedy = [uploads.open("greedy") for _ in range(4)]
    parts = [
        asyncio.create_task(read_body(uploads.chunks(sending(whole(9000)[:-1]), lease), scanner())) for lease in greedy
    ]
    done, _ = await asyncio.wait(parts, timeout=0.5)
    assert {type(task.exception()) for task in done} == {Overloaded}
    with uploads.open("other") as lease:
        await read_body(uploads.chunks(sending(whole(8000), stays=False), lease), scanner())
    for task in parts:
        task.cancel()
    await asyncio.gather(*parts, return_exceptions=True)
    for lease in greedy:
        lease.release()
    assert uploads.held_bytes == 0


@pytest.mark.parametrize("pieces", [[MEDIA], [MEDIA[:1]] * 20])
async def test_who_sends_too_slowly_is_sent_away(pieces: list[bytes]) -> None:
    async def dripping() -> Message:
        await asyncio.sleep(0.02)
        return await receive()

    uploads, receive = IncomingBodies(LIMITS, window_s=0.1), sending(*pieces)
    with uploads.open("slow") as lease, pytest.raises(TooSlow, match="4096 bytes a second"):
        await read_body(uploads.chunks(dripping, lease), scanner())


async def test_a_connection_that_is_lost_while_the_body_comes_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    async def lost() -> Message:
        raise RuntimeError("whatever the server around this application makes of it")

    async def send(message: Message) -> None:
        raise AssertionError("nobody is there")

    app = FakeApplication(AppConfig())
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": HEADERS, "query_string": b""}
    with caplog.at_level(logging.ERROR):
        await app.api(scope, lost, send)
    assert not caplog.records


async def test_a_client_that_leaves_while_its_body_comes_is_gone() -> None:
    async def leaving() -> Message:
        return {"type": "http.disconnect"}

    uploads = IncomingBodies(LIMITS)
    with uploads.open("a") as lease, pytest.raises(ClientGone):
        await read_body(uploads.chunks(leaving, lease), scanner())
