"""The other endpoints over fake stages: each reads its own shape into the same request, and words the same answer."""

import base64
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest

from deployments.config import AppConfig, IngressConfig
from deployments.errors import ContextTooLong
from deployments.types import (
    GenerateChunk,
    Grammar,
    MediaKind,
    PlainPrompt,
    TokenDelta,
    TokenLogprob,
    ToolFormat,
)
from tests.support.fakes import PROFILE, TIMES, FakeApplication

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"x": 3}}\n</tool_call>'
PICTURE = base64.b64encode(b"P" * 6000).decode()


def application(*texts: str, config: AppConfig | None = None, finish: Any = "stop") -> FakeApplication:
    app = FakeApplication(config)
    app.preprocessor.answers["profile"] = lambda: (replace(PROFILE, tool_format=ToolFormat.HERMES), None)
    *before, last = texts or ("Hel", "lo")
    app.model.chunks = [GenerateChunk((TokenDelta(0, text, 1),)) for text in before]
    app.model.chunks.append(GenerateChunk((TokenDelta(0, last, 1, finish_reason=finish),), TIMES))
    return app


async def post(app: FakeApplication, path: str, **fields: Any) -> httpx.Response:
    async with app.client() as client:
        return await client.post(path, json={"model": "demo", **fields})


def named_events(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))) for name, data in blocks]


# ── completions ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_completion_carries_a_text_on() -> None:
    app = application()
    body = (await post(app, "/v1/completions", prompt="Say", max_tokens=3, echo=True)).json()
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "SayHello")
    assert app.preprocessor.calls[-1].args == (PlainPrompt("Say", None, 3),)
    assert body["usage"]["prompt_tokens"] == 3


async def test_several_prompts_are_answered_in_order() -> None:
    body = (await post(application("x"), "/v1/completions", prompt=["a", [1, 2, 3]], max_tokens=1)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["usage"]["prompt_tokens"] == 4


async def test_a_prompts_own_logprobs_come_first() -> None:
    app = application()
    best = (TokenLogprob(2, "b", b"b", -0.5),)
    tokens = (
        TokenLogprob(1, "a", b"a", None),
        TokenLogprob(2, "b", b"b", -0.5, best),
        TokenLogprob(3, "c", b"c", -1.0),
    )
    app.model.chunks = [GenerateChunk((TokenDelta(0, "abc", 3, tokens, "length"),), TIMES)]
    body = (await post(app, "/v1/completions", prompt="ab", max_tokens=1, echo=True, logprobs=1)).json()
    logprobs = body["choices"][0]["logprobs"]
    assert body["choices"][0]["text"] == "abc"
    assert logprobs["token_logprobs"] == [None, -0.5, -1.0]
    assert logprobs["top_logprobs"][:2] == [None, {"b": -0.5}]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert app.params.score_prompt
    assert body["usage"]["completion_tokens"] == 1


async def test_streamed_completions_carry_the_usage_so_far() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    response = await post(application(), "/v1/completions", prompt="a", stream=True, stream_options=options)
    events = [orjson.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert [event["usage"]["completion_tokens"] for event in events] == [1, 2, 2]
    assert "".join(choice["text"] for event in events for choice in event["choices"]) == "Hello"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", "b"], "stream": True}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
async def test_a_wrong_field_of_a_completion_is_named(fields: dict[str, Any], param: str) -> None:
    response = await post(application(), "/v1/completions", **{"prompt": "a", **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


# ── responses ────────────────────────────────────────────────────────────────────────────────────────────────────────

TOOL = {"type": "function", "name": "look", "parameters": SCHEMA, "strict": False}


async def test_a_response_holds_what_was_said_and_called() -> None:
    app = application("Well.\n", CALL)
    fields = {"instructions": "be brief", "tools": [TOOL], "metadata": {"a": "b"}, "max_output_tokens": 9}
    body = (await post(app, "/v1/responses", input="look", **fields)).json()
    message, call = body["output"]
    assert message["content"][0]["text"] == "Well."
    assert (call["name"], call["arguments"]) == ("look", '{"x": 3}')
    assert (body["status"], body["metadata"], body["usage"]["output_tokens"]) == ("completed", {"a": "b"}, 2)
    assert [message.role for message in app.conversation.messages] == ["system", "user"]


async def test_a_streamed_response_opens_fills_and_closes_its_items_in_order() -> None:
    response = await post(application("We", "ll.", *CALL), "/v1/responses", input="look", tools=[TOOL], stream=True)
    events = named_events(response.text)
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    kinds = [kind for kind, _ in events]
    once = [kind for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    assert once == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
    ]
    output = events[-1][1]["response"]["output"]
    assert output[1]["arguments"] == '{"x": 3}'


async def test_what_a_response_can_not_do_is_refused_by_name() -> None:
    for fields in ({"truncation": "auto"}, {"include": ["file_search_call.results"]}, {"context_management": [{}]}):
        response = await post(application(), "/v1/responses", input="hi", **fields)
        assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(fields)))
    neutral = {"truncation": "disabled", "include": ["reasoning.encrypted_content"], "max_tool_calls": 2}
    body = (await post(application(), "/v1/responses", input="hi", **neutral)).json()
    assert {name: body[name] for name in neutral} == neutral


async def test_a_response_tells_the_log_probabilities_that_are_asked_for() -> None:
    token = TokenLogprob(7, "Hi", b"Hi", -0.5)
    for stream in (False, True):
        app = application()
        app.model.chunks = [GenerateChunk((TokenDelta(0, "Hi", 1, (token,), "stop"),), TIMES)]
        fields = {"input": "hi", "include": ["message.output_text.logprobs"], "stream": stream}
        response = await post(app, "/v1/responses", **fields)
        whole = named_events(response.text)[-1][1]["response"] if stream else response.json()
        (told,) = whole["output"][0]["content"][0]["logprobs"]
        assert (told["token"], told["logprob"]) == ("Hi", -0.5)


async def test_a_conversation_goes_on_from_an_earlier_response() -> None:
    app = application("red")
    first = (await post(app, "/v1/responses", input="colour?")).json()
    await post(app, "/v1/responses", input="sure?", previous_response_id=first["id"])
    assert [(m.role, m.parts[0].text) for m in app.conversation.messages] == [
        ("user", "colour?"),
        ("assistant", "red"),
        ("user", "sure?"),
    ]
    async with app.client() as client:
        assert (await client.get(f"/v1/responses/{first['id']}")).json() == first
        assert (await client.delete(f"/v1/responses/{first['id']}")).json()["deleted"]
        assert (await client.get(f"/v1/responses/{first['id']}")).status_code == 404


@pytest.mark.parametrize("kept", [True, False])
async def test_what_is_not_to_be_kept_is_not(kept: bool) -> None:
    config = None if kept else AppConfig(ingress=IngressConfig(max_stored_responses=0))
    app = application("red", config=config)
    first = (await post(app, "/v1/responses", input="colour?", store=not kept)).json()
    response = await post(app, "/v1/responses", input="sure?", previous_response_id=first["id"])
    assert (response.status_code, response.json()["error"]["param"]) == (404, "previous_response_id")


async def test_calls_results_and_media_are_input_items() -> None:
    app = application("red")
    items = [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "https://a.example/x.png"},
            ],
        },
        {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {
            "type": "function_call",
            "call_id": "c",
            "name": "look",
            "arguments": '{"x": 1}',
            "id": "fc",
            "status": "completed",
        },
        {"type": "function_call_output", "call_id": "c", "output": "seen"},
    ]
    text = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}
    response = await post(app, "/v1/responses", input=items, text=text)
    assert response.status_code == 200, response.text
    user, assistant, tool = app.conversation.messages
    assert user.parts[1].item == 0
    assert (assistant.reasoning, assistant.tool_calls[0].name) == ("hm", "look")
    assert (tool.role, tool.tool_call_id) == ("tool", "c")
    assert app.params.grammar is not None
    assert app.params.grammar.text.endswith('"additionalProperties":false}')


async def test_an_answer_that_is_too_long_is_incomplete() -> None:
    body = (await post(application("x", finish="length"), "/v1/responses", input="a")).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CLAUDE_TOOL = {"name": "look", "description": "d", "input_schema": SCHEMA}


async def test_a_message_is_made_of_blocks() -> None:
    app = application("Well.\n", CALL)
    content = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
        {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
    ]
    fields = {"max_tokens": 9, "system": "be brief", "tools": [CLAUDE_TOOL], "tool_choice": {"type": "any"}}
    response = await post(app, "/v1/messages", messages=[{"role": "user", "content": content}], **fields)
    body = response.json()
    assert [block["type"] for block in body["content"]] == ["text", "tool_use"]
    assert body["content"][1]["input"] == {"x": 3}
    assert (body["stop_reason"], body["usage"]["output_tokens"]) == ("tool_use", 2)
    assert app.params.grammar is not None
    assert app.fetcher.calls[-1].args[0].kind is MediaKind.IMAGE
    assert app.shared[-1].endswith(PICTURE.encode())


async def test_streamed_blocks_open_fill_and_close() -> None:
    fields = {"max_tokens": 9, "tools": [CLAUDE_TOOL], "stream": True}
    messages = [{"role": "user", "content": "look"}]
    response = await post(application("Well.", *CALL), "/v1/messages", messages=messages, **fields)
    events = named_events(response.text)
    kinds = [kind for kind, _ in events]
    assert kinds[:4] == ["message_start", "content_block_start", "content_block_delta", "content_block_stop"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    pieces = [event["delta"].get("partial_json", "") for kind, event in events if kind == "content_block_delta"]
    assert "".join(pieces) == '{"x": 3}'
    assert events[-2][1]["delta"]["stop_reason"] == "tool_use"


async def test_results_of_tools_are_messages_of_their_own() -> None:
    app = application("red")
    messages = [
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "tool_use", "id": "t", "name": "look", "input": {"x": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "seen"}]},
                {"type": "text", "text": "so?"},
            ],
        },
    ]
    response = await post(app, "/v1/messages", messages=messages, max_tokens=5)
    assert response.status_code == 200, response.text
    assert [message.role for message in app.conversation.messages] == ["user", "assistant", "tool", "user"]
    assert app.conversation.messages[1].reasoning == "hm"
    assert app.conversation.messages[2].tool_call_id == "t"


async def test_errors_have_the_shape_of_the_api() -> None:
    body = (await post(application(), "/v1/messages", messages=[], max_tokens=1)).json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert "messages" in body["error"]["message"]


# ── transcriptions, tokens, and the rest ─────────────────────────────────────────────────────────────────────────────


async def test_a_recording_is_written_down() -> None:
    app = application("hello there")
    async with app.client() as client:
        files = {"file": ("a.wav", b"RIFF" + bytes(5000), "audio/wav")}
        response = await client.post("/v1/audio/transcriptions", files=files, data={"model": "demo", "language": "en"})
        assert response.json()["text"] == "hello there"
        assert app.fetcher.calls[-1].args[0].kind is MediaKind.AUDIO
        assert base64.b64decode(app.shared[-1].partition(b",")[2]) == b"RIFF" + bytes(5000)
        wrong = await client.post("/v1/audio/transcriptions", data={"model": "demo"}, files={"x": b""})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x")
        assert (await client.post("/v1/audio/transcriptions", json={})).status_code == 415


async def test_tokens_are_counted_without_an_answer() -> None:
    app = application()
    body = (await post(app, "/tokenize", prompt="four")).json()
    assert (body["count"], len(body["tokens"]), body["max_model_len"]) == (4, 4, PROFILE.context_length)
    content = [{"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}]
    body = (await post(app, "/tokenize", messages=[{"role": "user", "content": content}])).json()
    assert body["details"] == {"text": 10, "image": 5, "video": 0, "audio": 0}
    body = (await post(app, "/v1/messages/count_tokens", messages=[{"role": "user", "content": "x"}])).json()
    assert body == {"input_tokens": 10}
    assert app.model.calls == []
    assert app.lanes.media.running == 0


async def test_tokens_are_read_back() -> None:
    app = application()
    app.preprocessor.answers["detokenize"] = lambda ids: (f"{len(ids)} tokens", None)
    assert (await post(app, "/detokenize", tokens=[1, 2])).json() == {"prompt": "2 tokens"}


async def test_bodies_that_are_not_declared_json_are_refused() -> None:
    """A web page can send these anywhere without being asked."""
    app = application()
    async with app.client() as client:
        for path in (
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/responses",
            "/v1/messages",
            "/tokenize",
            "/detokenize",
        ):
            response = await client.post(path, content=b"{}", headers={"content-type": "text/plain"})
            assert response.status_code == 415, path
        zipped = {"content-type": "application/json", "content-encoding": "gzip"}
        assert (await client.post("/v1/chat/completions", content=b"x", headers=zipped)).status_code == 415


async def test_the_api_describes_itself_without_outside_help() -> None:
    app = application()
    async with app.client() as client:
        document = (await client.get("/openapi.json")).json()
        assert "tools" in document["components"]["schemas"]["ChatRequest"]["properties"]
        assert {"/v1/chat/completions", "/v1/responses", "/health"} <= document["paths"].keys()
        page = (await client.get("/docs/api")).text
        assert "/v1/messages" in page
        assert "http" not in page
        assert (await client.get("/version")).json()["version"]
        assert (await client.post("/v1/embeddings", json={})).status_code == 400


async def test_a_slash_at_the_end_is_forgiven() -> None:
    async with application().client() as client:
        assert (await client.get("/v1/models/")).status_code == 200


@pytest.mark.parametrize(("origins", "allowed"), [((), None), (("https://app.example",), "https://app.example")])
async def test_pages_from_elsewhere_ask_where_a_setting_lets_them(
    origins: tuple[str, ...], allowed: str | None
) -> None:
    app = application(config=AppConfig(ingress=IngressConfig(cors_origins=origins)))
    headers = {"origin": "https://app.example", "access-control-request-method": "POST"}
    async with app.client() as client:
        response = await client.options("/v1/chat/completions", headers=headers)
        assert response.headers.get("access-control-allow-origin") == allowed
        assert (response.status_code == 200) is bool(origins)


async def test_an_overflow_says_what_clients_look_for() -> None:
    app = application()
    app.preprocessor.answers["prepare"] = _too_long
    error = (await app.chat()).json()["error"]
    assert error["code"] == "context_length_exceeded"


def _too_long(*_: object) -> Any:
    raise ContextTooLong("this model's maximum context length is 5 tokens", param="messages")


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "lark", 'start: "yes" | "no"'),
        ({"guided_grammar": "start: /a/"}, "lark", "start: /a/"),
        ({"structured_outputs": {"json": {"type": "integer"}}}, "json_schema", '{"type":"integer"}'),
        ({"guided_json": '{"type": "integer"}'}, "json_schema", '{"type":"integer"}'),
        ({"structured_outputs": {"json_object": True}}, "json_schema", "{}"),
    ],
)
async def test_structured_outputs_are_what_the_answer_must_follow(fields: dict[str, Any], kind: str, text: str) -> None:
    app = application()
    assert (await app.chat(**fields)).status_code == 200
    assert app.params.grammar is not None
    assert (app.params.grammar.kind, app.params.grammar.text) == (kind, text)
    assert isinstance(app.params.grammar, Grammar)
    twice = await app.chat(**fields, response_format={"type": "json_object"})
    assert twice.status_code == 400


async def test_a_conversation_is_carried_on_where_it_ends() -> None:
    app = application(" sky")
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "the blue"}]
    fields = {"add_generation_prompt": False, "continue_final_message": True, "echo": True}
    body = (await app.chat(messages=messages, **fields)).json()
    assert body["choices"][0]["message"]["content"] == "the blue sky"
    assert app.conversation.continue_last
    assert (await app.chat(add_generation_prompt=False)).json()["error"]["param"] == "add_generation_prompt"


async def test_files_are_the_media_that_they_hold() -> None:
    app = application()
    picture = {"type": "file", "file": {"file_data": f"data:image/png;base64,{PICTURE}", "filename": "a.png"}}
    assert (await app.chat([picture])).status_code == 200
    assert app.fetcher.calls[-1].args[0].kind is MediaKind.IMAGE
    paper = {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PICTURE}"}}
    assert "application/pdf" in (await app.chat([paper])).json()["error"]["message"]


async def test_pixel_limits_of_a_part_hold_for_the_request() -> None:
    app = application()
    part = {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}, "max_pixels": 5000}
    assert (await app.chat([part])).status_code == 200
    assert app.conversation.processor_kwargs == (("max_pixels", 5000),)
    assert (await app.chat([part, {**part, "max_pixels": 6000}])).status_code == 400
