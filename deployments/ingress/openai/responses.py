"""`POST /v1/responses`: OpenAI's newer shape of a conversation, read into what a chat request is.

Earlier responses are kept in this replica's memory, bounded, unless `store: false` says not to; see `response_store`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from deployments.errors import BadRequest, NotFound, shown
from deployments.ingress.http.body import Body
from deployments.ingress.http.json_responses import error_document
from deployments.ingress.models import Models
from deployments.ingress.openai.chat_request import read_chat
from deployments.ingress.openai.conversation import check_size
from deployments.ingress.openai.response_object import ResponseSettings, ResponsesWriter
from deployments.ingress.openai.response_store import ResponseStore
from deployments.ingress.openai.schema import MAX_TOOLS, MAX_TOP_LOGPROBS, ChatRequest, supported
from deployments.ingress.output.answer import Answer
from deployments.ingress.request import GenerationRequest
from deployments.ingress.wire import PositiveInt, SluiceOptions, Wire, validated

_HARMLESS = frozenset(
    {
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "stream_options",
        "user",
    }
)
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "background": (),
    "conversation": (),
    "prompt": (),
    "moderation": (),
    "context_management": (),
}
_LOGPROBS = "message.output_text.logprobs"
_INCLUDED = (_LOGPROBS, "reasoning.encrypted_content")
"""What `include` may name. Thoughts are never encrypted: they stand in the output as they are."""
_FIELDS = {
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "response_format.json_schema.schema": "text.format.schema",
    "messages": "input",
}
"""Where an error of the chat request belongs here."""


class Reasoning(Wire):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None


class TextFormat(Wire):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextOptions(Wire):
    format: TextFormat = TextFormat()
    verbosity: str | None = None


class ResponsesRequest(Wire):
    """The body."""

    model: str
    input: str | list[Any]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    stream: bool = False
    max_output_tokens: PositiveInt | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[Any], Field(max_length=MAX_TOOLS)] = []
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    reasoning: Reasoning | None = None
    text: TextOptions = TextOptions()
    truncation: Literal["auto", "disabled"] = "disabled"
    max_tool_calls: PositiveInt | None = None
    """Of tools that a server has itself: there are none here, so that it is always kept."""
    include: Annotated[list[str], Field(max_length=16)] = []
    metadata: dict[str, str] = {}
    structured_outputs: dict[str, Any] | None = None
    """As on chat completions."""
    sluice: SluiceOptions = SluiceOptions()


class Responses:
    """An `Endpoint`."""

    body_type = "application/json"
    error_document = staticmethod(error_document)

    def __init__(self, models: Models, store: ResponseStore) -> None:
        self._models = models
        self._store = store

    def read(self, body: Body) -> list[GenerationRequest]:
        document = body.document
        if not isinstance(document, dict):
            raise BadRequest("the body must be a JSON object")
        request = validated(ResponsesRequest, supported(document, _HARMLESS, _NEUTRAL), "")
        items = _items(request.input)
        check_size(items, "input")
        earlier = self._earlier(request.previous_response_id)
        entries = _messages(earlier, "previous_response_id") + _messages(items, "input")
        if request.instructions is not None:
            entries.insert(0, ({"role": "system", "content": request.instructions}, "instructions"))
        if not entries:
            raise BadRequest("`input` is empty", param="input")
        _check_unsupported(request)
        try:
            chat = validated(ChatRequest, _fields(request) | {"messages": [entry for entry, _ in entries]}, "")
            read = read_chat(chat, [label for _, label in entries], body, self._models)
        except BadRequest as error:
            error.param = _FIELDS.get(error.param or "", error.param)
            raise
        keeps = request.store and not body.cuts  # media are not kept: they are gone once they have been looked at
        settings = ResponseSettings(
            echoed=_echoed(request),
            history=(*earlier, *items) if keeps else None,
        )
        return [replace(read, wording=settings)]

    def writer(
        self, requests: Sequence[GenerationRequest], answers: Sequence[Answer], answer_id: str
    ) -> ResponsesWriter:
        settings = requests[0].wording
        assert isinstance(settings, ResponseSettings)
        return ResponsesWriter(settings, answers[0], answer_id, requests[0].model, self._store)

    def _earlier(self, response_id: str | None) -> tuple[dict[str, Any], ...]:
        if response_id is None:
            return ()
        kept = self._store.history(response_id)
        if kept is None:
            said = f"the response {shown(response_id)!r} is not kept here; send the conversation itself as `input`"
            raise NotFound(said, param="previous_response_id")
        return kept


def _check_unsupported(request: ResponsesRequest) -> None:
    """Raises `BadRequest` for what would change the response and is not done."""
    if request.truncation == "auto":
        said = "`truncation: auto` is not supported by this server: what does not fit the context is refused"
        raise BadRequest(said, param="truncation")
    for name in request.include:
        if name not in _INCLUDED:
            said = (
                f"`include` names {shown(name)!r}, which this server does not have; it may name: {', '.join(_INCLUDED)}"
            )
            raise BadRequest(said, param="include")


def _items(said: str | list[Any]) -> list[Any]:
    return [{"role": "user", "content": said}] if isinstance(said, str) else said


Entries = list[tuple[dict[str, Any], str]]


def _messages(items: Sequence[Any], label: str) -> Entries:
    """Items as messages of a chat; calls and thoughts of one turn of the assistant become one message."""
    entries: Entries = []
    for i, item in enumerate(items):
        at = label if label != "input" else f"input[{i}]"
        kind = item.get("type", "message") if isinstance(item, dict) else None
        match kind:
            case "message":
                entries.append(({"role": item.get("role"), "content": item.get("content")}, at))
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments")}
                turn = _turn(entries, at)
                turn.setdefault("tool_calls", []).append({"id": item.get("call_id"), "function": function})
            case "function_call_output":
                content = item.get("output")
                entries.append(({"role": "tool", "tool_call_id": item.get("call_id"), "content": content}, at))
            case "reasoning":
                thoughts = "".join(
                    str(part.get("text", "")) for part in item.get("content") or () if isinstance(part, dict)
                )
                if thoughts:
                    entries.append(({"role": "assistant", "content": None, "reasoning_content": thoughts}, at))
            case _:
                raise BadRequest(f"`{at}` is an item of type {shown(str(kind))!r}, which is not read here", param=at)
    return _joined(entries)


def _turn(entries: Entries, at: str) -> dict[str, Any]:
    """The assistant's message to which a call belongs."""
    if not entries or entries[-1][0]["role"] != "assistant":
        entries.append(({"role": "assistant", "content": None}, at))
    return entries[-1][0]


def _joined(entries: Entries) -> Entries:
    """Thoughts go with the message that follows them."""
    whole: Entries = []
    for entry, at in entries:
        last = whole[-1][0] if whole else {}
        if entry["role"] == "assistant" == last.get("role") and last.keys() == {"role", "content", "reasoning_content"}:
            whole[-1] = ({**last, **entry}, at)
        else:
            whole.append((entry, at))
    return whole


def _fields(request: ResponsesRequest) -> dict[str, Any]:
    form = request.text.format
    schema = {"type": form.type, "json_schema": {"schema": form.schema_}}
    fields: dict[str, Any] = {
        "model": request.model,
        "stream": request.stream,
        "max_completion_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "logprobs": True if request.top_logprobs or _LOGPROBS in request.include else None,
        "top_logprobs": request.top_logprobs or None,
        "tools": [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools)],
        "tool_choice": _tool_choice(request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls,
        "structured_outputs": request.structured_outputs,
        "sluice": request.sluice.model_dump(),
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "response_format": schema if form.type == "json_schema" else {"type": form.type},
    }
    return {name: value for name, value in fields.items() if value is not None}


def _tool(tool: object, label: str) -> Any:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        kind = tool.get("type") if isinstance(tool, dict) else None
        said = f"`{label}` is a tool of type {shown(str(kind))!r}; only function tools are supported"
        raise BadRequest(said, param=f"{label}.type")
    function = {name: value for name, value in tool.items() if name not in ("type", "defer_loading")}
    return {"type": "function", "function": function}


def _tool_choice(choice: str | dict[str, Any] | None) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools":
        tools = [
            {"type": "function", "function": {"name": tool.get("name")}}
            for tool in choice.get("tools") or ()
            if isinstance(tool, dict)
        ]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": tools}}
    return {"type": choice.get("type"), "function": {"name": choice.get("name")}}


def _echoed(request: ResponsesRequest) -> dict[str, Any]:
    """What a response repeats of its request."""
    said = request.model_dump(by_alias=True, exclude={"input", "stream", "model", "structured_outputs", "sluice"})
    said |= {"tool_choice": request.tool_choice or "auto", "background": False, "service_tier": "default"}
    said |= {"temperature": 1.0 if request.temperature is None else request.temperature}
    return said | {"top_p": 1.0 if request.top_p is None else request.top_p}
