"""What the page says when something goes wrong, and that it goes on afterwards."""

import asyncio

import pytest
from pydantic import SecretStr
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import Receive, Scope, Send

from deployments.config import AppConfig, IngressConfig
from deployments.errors import InternalError
from tests.browser.asking import LAST, ask, begin, done, fault, opened
from tests.browser.chromium import Page
from tests.browser.conftest import FakeServer

CHAT = "/v1/chat/completions"
KEY_ASKED = "!document.getElementById('key-bar').hidden"


async def broken_off(scope: Scope, receive: Receive, send: Send) -> None:
    """A stream that ends in the middle."""
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = b'data: {"choices": [{"delta": {"content": "It is a"}}]}\n\ndata: {"choi'
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def test_an_error_of_what_stands_between_is_told_without_its_html(page: Page, server: FakeServer) -> None:
    server.instead[CHAT] = HTMLResponse("<html><h1>Bad gateway</h1></html>", 502)
    await begin(page, "What is it?")
    said = await fault(page)
    assert "502" in said
    assert "<" not in said
    assert not await page.evaluate(KEY_ASKED)


async def test_a_stream_that_breaks_off_is_told_and_can_be_asked_again(page: Page, server: FakeServer) -> None:
    server.instead[CHAT] = broken_off
    await begin(page, "What is it?")
    assert "broke" in await fault(page)
    assert await page.text(f"{LAST} .answer") == "It is a"
    del server.instead[CHAT]
    await page.evaluate(f"[...document.querySelectorAll('{LAST} .actions button')].at(-2).click()")
    await page.until(f"document.querySelector('{LAST} .answer').innerText === 'Hello'")
    await done(page)
    assert await page.evaluate(f"document.querySelector('{LAST} .fault').textContent") == ""


async def test_a_server_that_is_gone_is_told_and_the_question_can_be_changed(page: Page, server: FakeServer) -> None:
    assert server.running is not None
    server.running.should_exit = True
    while server.running.servers and any(each.is_serving() for each in server.running.servers):
        await asyncio.sleep(0.02)
    await begin(page, "Anyone there?")
    assert "can't be reached" in await fault(page)
    await page.evaluate(f"[...document.querySelectorAll('{LAST} .actions button')].at(-1).click()")
    assert await page.evaluate("document.getElementById('question').value") == "Anyone there?"
    assert await page.texts(".exchange") == []


async def test_an_error_in_the_middle_of_a_stream_is_told_in_the_servers_words(page: Page, server: FakeServer) -> None:
    server.app.model.chunks[1:] = [InternalError("the model replica was lost")]
    await begin(page, "What is it?")
    assert "the model replica was lost" in await fault(page)
    assert not await page.evaluate(KEY_ASKED)


async def test_a_busy_server_says_when_to_come_back(page: Page, server: FakeServer) -> None:
    error = {"error": {"message": "The server is busy.", "type": "overloaded_error", "param": None, "code": "busy"}}
    server.instead[CHAT] = JSONResponse(error, 429, {"retry-after": "3"})
    await begin(page, "What is it?")
    assert await fault(page) == "The server is busy. Try again in 3 s."


async def test_a_server_that_still_starts_says_what_it_waits_for(blank: Page, server: FakeServer) -> None:
    starting = {"status": "starting", "waiting_for": ["Model"], "reasons": {"Model": "it needs a GPU"}}
    server.instead["/ready"] = JSONResponse(starting, 503)
    await blank.open(server.url)
    await blank.until("document.getElementById('model').textContent.includes('waiting for Model (it needs a GPU)')")
    del server.instead["/ready"]
    await blank.until("document.getElementById('model').textContent === 'demo'")
    assert await ask(blank, [], "What is it?") == "Hello"


class TestKeys:
    @pytest.fixture
    def config(self) -> AppConfig:
        return AppConfig(ingress=IngressConfig(api_keys=(SecretStr("sesame"),)))

    async def test_are_asked_for_where_they_are_needed(self, blank: Page, server: FakeServer) -> None:
        await blank.open(server.url)
        await blank.until(KEY_ASKED)
        assert await blank.text("#model") == "needs an API key"
        await blank.fill("#key", "sesame")
        await blank.evaluate("document.getElementById('key-bar').requestSubmit()")
        await blank.until("document.getElementById('model').textContent === 'demo'")
        assert await ask(blank, [], "What is it?") == "Hello"


async def test_a_page_from_another_host_without_tls_says_what_it_can_not_do_and_copies(
    blank: Page, server: FakeServer
) -> None:
    await opened(blank, f"http://sluice.example:{server.port}/")
    assert not await blank.evaluate("isSecureContext")
    await blank.click("#record-sound")
    await blank.until("document.getElementById('complaint').textContent.includes('https://')")
    await ask(blank, [], "What is it?")
    await blank.click(f"{LAST} .actions button")
    await blank.until(f"document.querySelector('{LAST} .actions button').textContent === 'Copied'")
    assert blank.complaints == []
