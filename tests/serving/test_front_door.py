"""Serve's own proxy, as it is bounded and worded here: uvicorn around an application that answers as the proxy does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

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
    body = await request.body()
    await answers.get(request.url.path, PlainTextResponse(f"{len(body)} bytes"))(scope, receive, send)


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[int]:
    config = uvicorn.Config(OpenAIErrors(application), port=0, http=BoundedHttp, log_level="critical", lifespan="off")
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


async def test_heads_within_the_limit_bodies_beyond_it_and_further_requests_pass() -> None:
    large = b"x" * (4 * MAX_HEAD_BYTES)
    async with served() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(3):  # on one connection
            assert (await client.post("/", content=large)).text == f"{len(large)} bytes"
            assert (await client.get("/", headers={"a": "b" * (MAX_HEAD_BYTES // 2)})).text == "0 bytes"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/lost", 503, "stage_unavailable"),
        ("/defect", 500, "internal_error"),
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

    async def nothing(message: Message | None = None) -> Message:
        raise AssertionError

    headers = [(b"x-request-id", b"\xe9"), (b"x-\xff", b"a"), (b"x-name", "é".encode()), (b"host", b"a")]
    await OpenAIErrors(proxy)({"type": "http", "path": "/v1/models", "headers": headers}, nothing, nothing)
    assert seen == headers[2:]
