"""Serve's own proxy, as it is bounded and worded here: uvicorn around an application that answers as the proxy does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from deployments.config import IngressConfig
from deployments.serving import bounded_bodies
from deployments.serving.bounded_bodies import BoundedBodies
from deployments.serving.bounded_http import MAX_HEAD_BYTES, BoundedHttp
from deployments.serving.front_door import OpenAIErrors


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    answers: dict[str, Response] = {
        "/lost": PlainTextResponse("The actor died because its worker process has died.", 500),
        "/defect": PlainTextResponse("Internal Server Error", 500),
        "/none": PlainTextResponse("Path '/none' not found.", 404),
        "/late": PlainTextResponse("Request timed out.", 408),
        "/own": JSONResponse({"error": {"code": "overloaded"}}, 429, {"retry-after": "3"}),
        "/-/routes": PlainTextResponse("no routes", 503),
    }
    if request.url.path == "/raised":
        raise RuntimeError("The actor died")
    if request.url.path == "/broken":
        raise KeyError("whatever")
    if request.url.path == "/cancelled":
        raise asyncio.CancelledError
    if request.url.path == "/silent":
        return
    try:
        body = await request.body()
    except ClientDisconnect:  # the proxy says nothing then
        return
    await answers.get(request.url.path, PlainTextResponse(f"{len(body)} bytes"))(scope, receive, send)


@contextlib.asynccontextmanager
async def served(max_body_bytes: int = 2**30, http: type[BoundedHttp] = BoundedHttp) -> AsyncIterator[int]:
    app = BoundedBodies(OpenAIErrors(application), max_body_bytes)
    config = uvicorn.Config(app, port=0, http=http, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


async def sent(port: int, *pieces: bytes) -> bytes:
    """The answer to `pieces`, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    answer = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            answer += piece
    writer.close()
    return answer


HEAD = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"


@pytest.mark.parametrize("lines", ["one", "many"])
async def test_a_head_beyond_its_limit_is_431_whole_or_endless(lines: str) -> None:
    filler = b"a: " + b"b" * MAX_HEAD_BYTES if lines == "one" else b"a: b\r\n" * (MAX_HEAD_BYTES // 4)
    async with served() as port:
        whole = await sent(port, HEAD + filler + b"\r\n\r\n")
        endless = await sent(port, HEAD, *[filler] * 4)
        assert whole.startswith(b"HTTP/1.1 431 ")
        assert b'"invalid_request_error"' in whole
        assert endless.startswith(b"HTTP/1.1 431 ") or endless == b""  # closed before all that was sent had been read
        assert (await sent(port, HEAD + b"\r\n")).startswith(b"HTTP/1.1 200 ")


class Hasty(BoundedHttp):
    head_timeout_s = 0.5


async def test_a_head_that_comes_byte_by_byte_is_408_and_one_that_never_begins_is_closed() -> None:
    async with served(http=Hasty) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        silent, unused = await asyncio.open_connection("127.0.0.1", port)

        async def drip() -> None:
            for byte in HEAD + b"a" * 10_000:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        answer = await reader.readuntil(b"}}")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert await silent.read() == b""
        dripping.cancel()
        writer.close()
        unused.close()


async def test_a_body_that_takes_longer_than_a_head_may_is_no_concern_of_the_front() -> None:
    async with served(http=Hasty) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"content-length: 2\r\n\r\nx")
        await asyncio.sleep(2 * Hasty.head_timeout_s)
        writer.write(b"x")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_heads_within_the_limit_bodies_beyond_it_and_further_requests_pass() -> None:
    large = b"x" * (4 * MAX_HEAD_BYTES)
    async with served() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(3):  # on one connection
            assert (await client.post("/", content=large)).text == f"{len(large)} bytes"
            assert (await client.get("/", headers={"a": "b" * (MAX_HEAD_BYTES // 2)})).text == "0 bytes"


async def test_a_body_that_declares_too_much_is_413_before_any_of_it_is_sent() -> None:
    async with served(1000) as port:
        answer = await sent(port, HEAD[:-2] + b"expect: 100-continue\r\ncontent-length: 1001\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"too_large"' in answer
        assert (await sent(port, HEAD + b"content-length: 1000\r\n\r\n" + b"x" * 1000)).startswith(b"HTTP/1.1 200 ")


async def test_a_body_without_a_length_is_413_once_it_is_too_large() -> None:
    chunk = b"1f4\r\n" + b"x" * 500 + b"\r\n"
    head = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    async with served(1000) as port:
        assert (await sent(port, head, chunk, chunk, b"0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert (await sent(port, head, chunk, chunk, chunk)).startswith(b"HTTP/1.1 413 ")


def test_the_proxy_takes_what_some_route_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few, files = IngressConfig(max_body_bytes=10), IngressConfig(max_batch_file_bytes=2**40, batch_folder=tmp_path)
    for config, least in ((few, 10), (files, 2**40)):
        for name, value in bounded_bodies.variables(config).items():
            monkeypatch.setenv(name, value)
        assert least < bounded_bodies.max_body_bytes() < least + 2**21
    monkeypatch.delenv(bounded_bodies.VARIABLE)
    defaults = IngressConfig()
    assert bounded_bodies.max_body_bytes() > max(defaults.max_body_bytes, defaults.max_batch_file_bytes)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/lost", 503, "stage_unavailable"),
        ("/defect", 500, "internal_error"),
        ("/raised", 503, "stage_unavailable"),
        ("/broken", 500, "internal_error"),
        ("/cancelled", 503, "stage_unavailable"),
        ("/silent", 503, "stage_unavailable"),
        ("/none", 404, "not_found"),
        ("/late", 408, "timeout"),
        ("/own", 429, "overloaded"),
    ],
)
async def test_the_proxys_errors_have_openais_shape(path: str, status: int, code: str) -> None:
    async with served() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert ("retry-after" in answer.headers) == (status in (429, 503))


async def test_serves_own_paths_stay_as_they_are() -> None:
    async with served() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/-/routes")).text == "no routes"


async def test_headers_that_are_no_text_do_not_reach_the_proxy() -> None:
    """It decodes its own ones as UTF-8, and would answer 500 in plain text where they are not."""
    seen: list[tuple[bytes, bytes]] = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])

    async def nothing() -> Message:
        raise AssertionError

    async def unheard(message: Message) -> None:
        pass

    headers = [(b"x-request-id", b"\xe9"), (b"x-\xff", b"a"), (b"x-name", "é".encode()), (b"host", b"a")]
    await OpenAIErrors(proxy)({"type": "http", "path": "/v1/models", "headers": headers}, nothing, unheard)
    assert seen == headers[2:]
