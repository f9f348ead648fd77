"""The page as a chat: turns and their media, what is sent and when, what an answer may hold, what can be set."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.config import AppConfig, IngressConfig, MediaConfig
from deployments.types import GenerateChunk, MediaKind, TokenDelta
from tests.browser.asking import LAST, ask, attach, begin, done
from tests.browser.chromium import Page
from tests.browser.conftest import FakeServer
from tests.support.fakes import TIMES

PICTURE, SOUND, CLIP = "purple-square.png", "2-low-beeps.wav", "red-circle-left.mp4"


def saying(text: str, finish_reason: str = "stop") -> list[GenerateChunk | Exception]:
    """The model's chunks for an answer, in pieces of a few characters."""
    pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
    end = GenerateChunk((TokenDelta(0, "", 1, finish_reason=finish_reason),), TIMES)
    return [*(GenerateChunk((TokenDelta(0, piece, 1),)) for piece in pieces), end]


async def test_a_second_question_carries_the_first_its_picture_and_its_answer(
    page: Page, server: FakeServer, samples: Path
) -> None:
    assert await ask(page, [samples / PICTURE], "What is it?") == "Hello"
    await ask(page, [samples / SOUND], "And this?")
    chat = server.app.conversation
    assert [message.role for message in chat.messages] == ["user", "assistant", "user"]
    media = server.app.preprocessor.calls[-1].args[1]
    assert [item.kind for item in media] == [MediaKind.IMAGE, MediaKind.AUDIO]
    assert await page.texts(".asked") == ["What is it?", "And this?"]
    assert await page.texts(".question .name") == [PICTURE, SOUND]
    assert await page.evaluate("[...document.querySelectorAll('.cost')].map(cost => cost.open)") == [False, True]


async def test_enter_while_an_answer_runs_sends_nothing_and_keeps_the_text(page: Page, server: FakeServer) -> None:
    server.app.model.gate = asyncio.Event()
    await begin(page, "first")
    await page.until(f"document.querySelector('{LAST} .answer').textContent.includes('Hel')")
    await page.evaluate("document.getElementById('question').focus()")
    await page.write("second")
    await page.press("Enter", text="\r")
    await page.evaluate("document.getElementById('ask').requestSubmit()")
    assert await page.evaluate("document.getElementById('question').value") == "second"
    server.app.model.gate.set()
    await done(page)
    assert await page.texts(".answer") == ["Hello"]
    assert len(server.app.model.calls) == 1


async def test_enter_that_ends_a_composition_sends_nothing(page: Page, server: FakeServer) -> None:
    await page.evaluate("document.getElementById('question').focus()")
    await page.tell("Input.imeSetComposition", text="にほん", selectionStart=3, selectionEnd=3)
    await page.press("Enter")
    assert await page.texts(".exchange") == []
    await page.tell("Input.insertText", text="日本")
    await page.press("Enter", text="\r")
    await done(page)
    assert await page.texts(".asked") == ["日本"]


async def test_what_is_being_answered_can_lose_no_file(page: Page, server: FakeServer, samples: Path) -> None:
    server.app.model.gate = asyncio.Event()
    await attach(page, [samples / CLIP])
    await begin(page, "What is it?")
    await page.until(f"document.querySelector('{LAST} .answer').textContent.includes('Hel')")
    assert await page.evaluate("document.querySelectorAll('.remove').length") == 0
    server.app.model.gate.set()
    await done(page)
    await page.until("document.querySelectorAll('.thumbnails canvas').length === 2")


async def test_stop_ends_the_work_and_keeps_what_was_said(page: Page, server: FakeServer) -> None:
    server.app.model.gate = asyncio.Event()
    await begin(page, "Tell me all")
    await page.until(f"document.querySelector('{LAST} .answer').textContent.includes('Hel')")
    await page.click("#stop")
    await done(page)
    assert await page.text(f"{LAST} .answer") == "Hel"
    assert "Stopped" in await page.text(f"{LAST} .note")
    for _ in range(200):
        if server.app.model.cancelled:
            break
        await asyncio.sleep(0.02)
    assert server.app.model.cancelled == 1
    server.app.model.gate.set()
    assert await ask(page, [], "Go on") == "Hello"
    assert [part.text for part in server.app.conversation.messages[1].parts] == ["Hel"]


async def test_an_answer_that_was_cut_off_says_so_and_a_whole_one_does_not(page: Page, server: FakeServer) -> None:
    await ask(page, [], "one")
    assert await page.evaluate(f"document.querySelector('{LAST} .note').textContent") == ""
    server.app.model.chunks = saying("half an", "length")
    await ask(page, [], "two")
    assert "Cut off" in await page.text(f"{LAST} .note")


async def test_markdown_is_drawn_and_nothing_in_it_acts(page: Page, server: FakeServer) -> None:
    server.app.model.chunks = saying(
        "**bold** and `code`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\nx = 1\n```\n\n"
        "<img src=x onerror=\"window.hit = 1\"> <script>window.hit = 2</script> <b onclick='window.hit = 3'>b</b>\n\n"
        "[one](javascript:window.hit=4) [two](https://example.com/) ![three](https://spy.example/x.png)\n\n"
        '<a href="data:text/html,x">four</a> <form action="https://spy.example"><input></form>'
    )
    shown = await ask(page, [], "Draw")
    answer = f"{LAST} .answer"
    for tag, count in {"strong": 1, "table": 1, "pre": 1, "img": 0, "script": 0, "b": 0, "form": 0, "input": 0}.items():
        assert await page.evaluate(f"document.querySelectorAll('{answer} {tag}').length") == count, tag
    links = await page.evaluate(f"[...document.querySelectorAll('{answer} a')].map(a => [a.href, a.rel, a.target])")
    assert [link for link in links if link[0]] == [["https://example.com/", "noopener noreferrer", "_blank"]]
    assert "<script>" in shown  # as text
    assert await page.evaluate("window.hit === undefined")
    assert [url for url in page.requested if "spy" in url] == []
    assert page.complaints == []


async def test_an_answer_can_be_copied_as_it_was_said(page: Page, server: FakeServer) -> None:
    await page.tell("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    server.app.model.chunks = saying("**bold**")
    await ask(page, [], "Say it")
    await page.click(f"{LAST} .actions button")
    await page.until(f"document.querySelector('{LAST} .actions button').textContent === 'Copied'")
    assert await page.evaluate("navigator.clipboard.readText()") == "**bold**"


async def test_a_picture_can_be_pasted(page: Page) -> None:
    await page.evaluate(
        "fetch('/page/samples/purple-square.png').then(r => r.blob()).then(blob => {"
        " const clipboardData = new DataTransfer();"
        " clipboardData.items.add(new File([blob], 'image.png', {type: 'image/png'}));"
        " document.getElementById('question')"
        ".dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true, cancelable: true})); })"
    )
    assert await page.texts("#items .name") == ["image.png"]


async def test_a_file_let_go_beside_the_box_is_taken_and_the_page_stays(page: Page, samples: Path) -> None:
    address = await page.evaluate("location.href")
    await page.drop("#panel", [samples / PICTURE])
    await page.until("document.querySelectorAll('#items li').length === 1")
    assert await page.evaluate("location.href") == address


async def test_each_sample_is_asked_about_with_one_click(page: Page, server: FakeServer) -> None:
    count = await page.evaluate("document.querySelectorAll('#samples button').length")
    assert count >= 4
    kinds = set()
    for number in range(count):
        await page.click(f"#samples li:nth-child({number + 1}) button")
        await page.until(f"document.querySelectorAll('.exchange').length === {1}")
        await done(page)
        kinds |= {item.kind for item in server.app.preprocessor.calls[-1].args[1]}
        await page.click("#new")
        assert await page.texts(".exchange") == []
    assert kinds == set(MediaKind)
    assert page.complaints == []


async def test_what_the_browser_can_not_draw_is_shown_by_its_name_and_sent(
    page: Page, server: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "scan.tiff").write_bytes(b"II*\0 not much of a picture")
    (tmp_path / "tv.ts").write_bytes(b"\x47" * 188)
    await ask(page, [tmp_path / "scan.tiff", tmp_path / "tv.ts"], "What is it?")
    media = server.app.preprocessor.calls[-1].args[1]
    assert [item.kind for item in media] == [MediaKind.IMAGE, MediaKind.VIDEO]
    assert await page.texts(".question .name") == ["scan.tiff", "tv.ts"]
    await page.until("document.querySelectorAll('.question .undrawn').length === 2")
    await page.until("document.querySelectorAll('.thumbnails li').length === 2")
    assert await page.texts(".thumbnails li") == ["0.00 s", "1.00 s"]


async def test_what_is_no_medium_is_named(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hm")
    await page.drop("#ask", [tmp_path / "notes.txt"])
    await page.until("!!document.getElementById('complaint').textContent")
    assert await page.text("#complaint") == "notes.txt is no picture, clip or sound."


async def test_what_options_say_reaches_the_model(page: Page, server: FakeServer) -> None:
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}, "additionalProperties": False}
    boxes = {
        "system": "Be brief.", "tokens": "12", "temperature": "0.5", "top-p": "0.9", "top-k": "40", "seed": "7",
        "schema": orjson.dumps(schema).decode(), "extra": '{"stop": ["."]}',
    }  # fmt: skip
    for name, value in boxes.items():
        await page.fill(f"#{name}", value)
    await ask(page, [], "What is it?")
    params = server.app.params
    told = (params.max_tokens, params.temperature, params.top_p, params.top_k, params.seed, params.stop)
    assert told == (12, 0.5, 0.9, 40, 7, (".",))
    assert params.grammar is not None
    assert orjson.loads(params.grammar.text) == schema
    first = server.app.conversation.messages[0]
    assert (first.role, [part.text for part in first.parts]) == ("system", ["Be brief."])


async def test_a_box_that_holds_no_json_is_named_and_nothing_is_sent(page: Page, server: FakeServer) -> None:
    await page.fill("#schema", "{colour")
    await begin(page, "What is it?")
    await page.until(f"!!document.querySelector('{LAST} .fault')?.textContent")
    assert "JSON schema" in await page.text(f"{LAST} .fault")
    assert server.app.model.calls == []


class Caller:
    """In place of the model: thinks and calls a tool, then says what it was told."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.bodies.append(await Request(scope, receive).json())
        start = {"id": "call-1", "function": {"name": "look_up", "arguments": '{"what": '}}
        deltas = [
            {"reasoning_content": "I should look that up."},
            {"tool_calls": [{"index": 0, "type": "function", **start}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '"circle"}'}}]},
        ]
        if len(self.bodies) > 1:
            deltas = [{"content": "Round, then."}]
        events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        lines = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
        await Response(lines + b"data: [DONE]\n\n", media_type="text/event-stream")(scope, receive, send)


async def test_a_tool_is_called_and_what_is_written_next_is_its_result(page: Page, server: FakeServer) -> None:
    caller = server.instead["/v1/chat/completions"] = Caller()
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
    await page.fill("#tools", orjson.dumps(tools).decode())
    assert await ask(page, [], "What is a circle?") == ""
    assert await page.texts(f"{LAST} .calls pre") == ['look_up({"what": "circle"})']
    assert "I should look that up." in await page.evaluate(f"document.querySelector('{LAST} .thoughts').textContent")
    assert await ask(page, [], "round") == "Round, then."
    first, second = caller.bodies
    assert first["tools"] == tools
    roles = [(message["role"], message["content"]) for message in second["messages"]]
    assert roles == [("user", "What is a circle?"), ("assistant", ""), ("tool", "round")]
    (call,) = second["messages"][1]["tool_calls"]
    assert (call["id"], call["function"]["arguments"]) == ("call-1", '{"what": "circle"}')
    assert second["messages"][2]["tool_call_id"] == "call-1"
    assert page.complaints == []


class TestLimits:
    @pytest.fixture
    def config(self) -> AppConfig:
        return AppConfig(
            ingress=IngressConfig(max_images=2, max_body_bytes=2**20), media=MediaConfig(max_image_bytes=50_000)
        )

    async def test_are_shown(self, page: Page) -> None:
        shown = await page.text("#limits")
        assert "4096 tokens" in shown
        assert "2, of 49 KiB each" in shown

    async def test_are_told_before_anything_is_sent(
        self, page: Page, server: FakeServer, samples: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "huge.png").write_bytes(bytes(60_000))
        (tmp_path / "long.wav").write_bytes(bytes(900_000))
        for name, said in (("huge.png", "pictures of 49 KiB at most"), ("long.wav", "takes 1 MiB")):
            await page.drop("#ask", [tmp_path / name])
            await page.until(f"document.getElementById('complaint').textContent.includes({said!r})")
        assert await page.texts("#items li") == []
        await ask(page, [samples / PICTURE], "one")  # counts, though it is sent by now
        await page.drop("#ask", [samples / PICTURE] * 2)
        await page.until("document.getElementById('complaint').textContent.includes('takes 2 pictures')")
        assert await page.texts("#items .name") == [PICTURE]
        assert len(server.app.model.calls) == 1


class TestSeveralModels:
    @pytest.fixture
    def config(self) -> AppConfig:
        return AppConfig.model_validate({"models": {"small": {}, "org/large": {}}})

    async def test_the_one_that_is_chosen_is_asked_and_its_limits_are_shown(
        self, page: Page, server: FakeServer
    ) -> None:
        assert await page.text("#model") == "small"
        choose = "(s => { s.value = 'org/large'; s.dispatchEvent(new Event('change')); })"
        await page.evaluate(f"{choose}(document.getElementById('model-choice'))")
        await page.until("document.getElementById('model').textContent === 'org/large'")
        assert "org/large" in await page.text("#limits")
        assert await ask(page, [], "What is it?") == "Hello"
        assert {name: len(stages.model.calls) for name, stages in server.app.models.items()} == {
            "small": 0,
            "org/large": 1,
        }
