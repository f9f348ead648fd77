"""Bodies that arrive: promises keep nobody out, slow clients are sent away, lost connections are no defects."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from starlette.datastructures import Headers
from starlette.types import Message, Receive

from deployments.config import AppConfig, IngressConfig
from deployments.errors import Overloaded, TooLarge, TooSlow
from deployments.ingress.http.body import BodyScanner, read_body
from deployments.ingress.http.exchange import ClientGone
from deployments.ingress.http.small_body import check_length
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


PATHS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/audio/transcriptions",
    "/v1/files",
    "/v1/batches",
    "/tokenize",
    "/detokenize",
]


@contextlib.asynccontextmanager
async def listening(app: FakeApplication) -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(app.api, port=0, log_level="critical", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_declares_too_much_is_refused_before_any_of_it_comes(path: str, tmp_path: Path) -> None:
    app = FakeApplication(AppConfig(ingress=IngressConfig(batch_folder=tmp_path)))
    form = path in ("/v1/audio/transcriptions", "/v1/files")
    declared = "multipart/form-data; boundary=x" if form else "application/json"
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-type: {declared}\r\n"
    async with listening(app) as port:
        for length, answer in ((2**40, b"HTTP/1.1 413 "), (200, b"HTTP/1.1 100 Continue")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{head}content-length: {length}\r\n\r\n".encode())
            assert (await reader.readline()).startswith(answer)
            writer.close()


def test_a_length_of_more_digits_than_any_has_is_too_large() -> None:
    with pytest.raises(TooLarge):
        check_length(Headers({"content-length": "9" * 5000}), 1000)
    assert check_length(Headers({"content-length": "1000"}), 1000) == 1000
    assert check_length(Headers({"content-length": "\u00b2"}), 1000) is None
