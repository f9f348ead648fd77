"""Tools on chat completions over fake stages: what the stages are told, what clients get back."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest

from deployments.types import GenerateChunk, Prepared, Thinking, TokenDelta, ToolCall, ToolFormat
from tests.support.fakes import PROFILE, TIMES, FakeApplication, prepared

LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks at a place.",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    },
}
CALL = '<tool_call>\n{"name": "look", "arguments": {"x": 3}}\n</tool_call>'
THINKING = Thinking("<think>", "</think>", (1,), (2,), is_open=True)


def application(*texts: str, thinking: Thinking | None = None) -> FakeApplication:
    """Whose model writes these texts, chunk by chunk."""
    app = FakeApplication()
    profile = replace(PROFILE, tool_format=ToolFormat.HERMES)
    app.preprocessor.answers["profile"] = lambda: (profile, None)

    def thoughtful(*args: Any) -> tuple[Prepared, object]:
        done, tensors = prepared(*args)
        return replace(done, thinking=thinking), tensors

    app.preprocessor.answers["prepare"] = thoughtful
    *before, last = texts
    app.model.chunks = [GenerateChunk((TokenDelta(0, text, 1, num_reasoning_tokens=1),)) for text in before]
    app.model.chunks.append(GenerateChunk((TokenDelta(0, last, 1, finish_reason="stop"),), TIMES))
    return app


def events(text: str) -> list[dict[str, Any]]:
    return [orjson.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


async def test_a_call_is_told_as_one() -> None:
    app = application("Let me see.\n", CALL)
    choice = (await app.chat(tools=[LOOK])).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": '{"x": 3}'}
    assert call["id"].startswith("call_")
    assert [tool.name for tool in app.conversation.tools] == ["look"]
    assert app.params.grammar is None


async def test_a_streamed_calls_arguments_come_in_pieces() -> None:
    response = await application(*CALL).chat(tools=[LOOK], stream=True)
    deltas = [event["choices"][0]["delta"] for event in events(response.text)]
    pieces = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert pieces[0]["function"]["name"] == "look"
    assert pieces[0]["id"]
    arguments = [piece["function"]["arguments"] for piece in pieces]
    assert "".join(arguments) == '{"x": 3}'
    assert len([piece for piece in arguments if piece]) > 3
    assert events(response.text)[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert not any(delta.get("content") for delta in deltas)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
async def test_a_call_that_must_come_is_bound_by_a_grammar(choice: object) -> None:
    app = application(CALL)
    assert (await app.chat(tools=[LOOK], tool_choice=choice)).status_code == 200
    assert app.params.grammar is not None
    assert app.params.grammar.kind == "lark"
    assert "<tool_call>" in app.params.visible_tokens


async def test_tools_that_may_not_be_called_are_text() -> None:
    app = application("fine")
    response = await app.chat(tools=[LOOK], tool_choice="none")
    assert response.json()["choices"][0]["message"]["content"] == "fine"
    assert app.conversation.tools == ()


async def test_calls_and_their_results_come_back_with_the_conversation() -> None:
    app = application("red")
    picture = {"type": "image_url", "image_url": {"url": "https://media.example/a.png"}}
    called = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x": 3}'}}
    messages = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [called], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "seen"}, picture]},
    ]
    assert (await app.chat(messages=messages, tools=[LOOK])).status_code == 200
    _, assistant, result = app.conversation.messages
    assert assistant.tool_calls == (ToolCall("c1", "look", '{"x": 3}'),)
    assert assistant.reasoning == "hm"
    assert (result.role, result.tool_call_id, result.parts[1].item) == ("tool", "c1", 0)


async def test_a_template_without_tools_is_told() -> None:
    app = FakeApplication()
    response = await app.chat(tools=[LOOK])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"
    assert "takes no tools" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [LOOK, LOOK]}, "tools[1].function.name"),
        ({"tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
    ],
)
async def test_a_wrong_tool_is_named(fields: dict[str, Any], param: str) -> None:
    response = await application("x").chat(**fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_thoughts_are_told_apart_from_the_answer_and_from_calls() -> None:
    app = application("let me", " think</th", "ink>\n\nSo:", CALL, thinking=THINKING)
    body = (await app.chat(tools=[LOOK])).json()
    message = body["choices"][0]["message"]
    assert message["reasoning_content"] == message["reasoning"] == "let me think"
    assert message["content"] == "So:"
    assert message["tool_calls"][0]["function"]["name"] == "look"
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3


async def test_thoughts_are_streamed_as_such() -> None:
    app = application("<thi", "nk>\nhm", " ok\n</think>", "yes", thinking=replace(THINKING, is_open=False))
    deltas = [event["choices"][0]["delta"] for event in events((await app.chat(stream=True)).text)]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm ok"
    assert "".join(delta.get("content", "") for delta in deltas) == "yes"


async def test_thoughts_are_left_out_where_they_are_not_wanted() -> None:
    message = (await application("hm</think>yes", thinking=THINKING).chat(include_reasoning=False)).json()["choices"][
        0
    ]["message"]
    assert message["content"] == "yes"
    assert "reasoning_content" not in message


async def test_what_is_said_about_thinking_reaches_the_template_and_the_model() -> None:
    app = application("x")
    fields = {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": False}, "max_reasoning_tokens": 5}
    assert (await app.chat(**fields)).status_code == 200
    assert app.conversation.reasoning_effort == "none"
    assert app.conversation.template_kwargs == (("enable_thinking", False),)
    assert app.params.max_reasoning_tokens == 5
    refused = await app.chat(chat_template_kwargs={"x": json.loads('{"deep": 1}')})
    assert refused.json()["error"]["param"] == "chat_template_kwargs.x"
