"""`POST /v1/messages`: Anthropic's shape of a conversation, read into what a chat request is."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response

from deployments.errors import BadRequest, shown
from deployments.ingress.anthropic.messages_response import MessagesResponse, error_document
from deployments.ingress.http.body import Body
from deployments.ingress.http.json_responses import json_response
from deployments.ingress.models import Models
from deployments.ingress.openai.chat_request import read_chat
from deployments.ingress.openai.conversation import check_size
from deployments.ingress.openai.schema import MAX_TOOLS, ChatRequest, supported
from deployments.ingress.output.answer import Answer
from deployments.ingress.pipeline.pipeline import ReadyPrompt
from deployments.ingress.request import GenerationRequest
from deployments.ingress.wire import PositiveInt, SluiceOptions, Wire, validated
from deployments.types import MediaKind, MediaProfile

_HARMLESS = frozenset({"metadata", "service_tier", "context_management", "betas", "inference_geo", "speed"})
_NEUTRAL: dict[str, tuple[object, ...]] = {"container": (), "mcp_servers": ()}
_BLOCK_HARMLESS = frozenset({"cache_control", "citations"})
_FIELDS = {"max_completion_tokens": "max_tokens", "stop": "stop_sequences", "max_reasoning_tokens": "thinking"}
"""Where an error of the chat request belongs here."""


class ToolWire(Wire):
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    type: str = "custom"
    strict: bool = False


class ToolChoice(Wire):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingOptions(Wire):
    type: str
    budget_tokens: PositiveInt | None = None
    display: str | None = None


class MessagesRequest(Wire):
    """The body."""

    model: str
    messages: Annotated[list[Any], Field(min_length=1)]
    max_tokens: PositiveInt
    system: str | list[Any] | None = None
    stream: bool = False
    stop_sequences: list[str] = []
    temperature: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    tools: Annotated[list[Any], Field(max_length=MAX_TOOLS)] = []
    tool_choice: ToolChoice | None = None
    thinking: ThinkingOptions | None = None
    output_config: dict[str, Any] = {}
    structured_outputs: dict[str, Any] | None = None
    """As on chat completions."""
    sluice: SluiceOptions = SluiceOptions()


class _Reader:
    """How both endpoints read."""

    body_type = "application/json"
    error_document = staticmethod(error_document)

    def __init__(self, models: Models) -> None:
        self._models = models

    def read(self, body: Body) -> list[GenerationRequest]:
        document = body.document
        if not isinstance(document, dict):
            raise BadRequest("the body must be a JSON object")
        check_size(document.get("messages"), "messages")
        request = validated(MessagesRequest, supported(document, _HARMLESS, _NEUTRAL), "")
        entries = _system(request.system)
        for i, message in enumerate(request.messages):
            entries += _message(message, f"messages[{i}]", body)
        fields = _fields(request) | {"messages": [entry for entry, _ in entries]}
        try:
            chat = validated(ChatRequest, fields, "")
            return [read_chat(chat, [label for _, label in entries], body, self._models)]
        except BadRequest as error:
            error.param = _FIELDS.get(error.param or "", error.param)
            raise


class CountTokens(_Reader):
    """A `CountingEndpoint`: `POST /v1/messages/count_tokens`."""

    def read(self, body: Body) -> list[GenerationRequest]:
        if isinstance(body.document, dict):
            body.document.setdefault("max_tokens", 1)
        return super().read(body)

    def respond(self, requests: Sequence[GenerationRequest], prompt: ReadyPrompt, profile: MediaProfile) -> Response:
        return json_response({"input_tokens": prompt.prepared.counts.total})


class Messages(_Reader):
    """An `Endpoint`."""

    def writer(
        self, requests: Sequence[GenerationRequest], answers: Sequence[Answer], answer_id: str
    ) -> MessagesResponse:
        return MessagesResponse(answers[0], answer_id, requests[0].model)


def _fields(request: MessagesRequest) -> dict[str, Any]:
    thinking = request.thinking
    fields: dict[str, Any] = {
        "model": request.model,
        "max_completion_tokens": request.max_tokens,
        "stream": request.stream,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop_sequences or None,
        "tools": [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools)],
        "structured_outputs": request.structured_outputs,
        "sluice": request.sluice.model_dump(),
    }
    if thinking is not None:
        fields["reasoning_effort"] = "none" if thinking.type == "disabled" else None
        fields["max_reasoning_tokens"] = thinking.budget_tokens
    choice = request.tool_choice
    if choice is not None:
        named = {"type": "function", "function": {"name": choice.name}}
        kinds: dict[str, Any] = {"auto": "auto", "any": "required", "none": "none", "tool": named}
        if choice.type not in kinds:
            raise BadRequest("`tool_choice.type` is auto, any, tool or none", param="tool_choice.type")
        fields["tool_choice"] = kinds[choice.type]
        fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    schema = request.output_config.get("format", {})
    if isinstance(schema, dict) and schema.get("type") == "json_schema":
        fields["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema.get("schema")}}
    return {name: value for name, value in fields.items() if value is not None}


def _tool(document: object, label: str) -> dict[str, Any]:
    fields = supported(document, _BLOCK_HARMLESS, {}, f"{label}.") if isinstance(document, dict) else {}
    kind = fields.get("type", "custom")
    if kind != "custom":
        raise BadRequest(
            f"`{label}` is a tool of type {shown(str(kind))!r}; only tools of clients are called", param=label
        )
    tool = validated(ToolWire, fields, label)
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": {**function, "strict": tool.strict}}


Entries = list[tuple[dict[str, Any], str]]
"""Messages as a chat request has them, and where each stands in the body."""


def _system(system: str | list[Any] | None) -> Entries:
    if not system:
        return []
    return [({"role": "system", "content": system}, "system")]


def _message(document: object, label: str, body: Body) -> Entries:
    """An assistant's calls go with its text; results of tools become messages of their own, before what follows."""
    if not isinstance(document, dict) or not isinstance(document.get("content"), list):
        return [(document if isinstance(document, dict) else {"role": None}, label)]
    entries: Entries = []
    parts: list[Any] = []
    message: dict[str, Any] = {"role": document.get("role"), "content": parts}
    for i, block in enumerate(document["content"]):
        at = f"{label}.content[{i}]"
        kind = block.get("type") if isinstance(block, dict) else None
        match kind:
            case "tool_use":
                function = {"name": block.get("name"), "arguments": block.get("input") or {}}
                message.setdefault("tool_calls", []).append({"id": block.get("id"), "function": function})
            case "tool_result":
                entries.append((_result(block, at), at))
            case "thinking":
                message["reasoning_content"] = message.get("reasoning_content", "") + str(block.get("thinking", ""))
            case "redacted_thinking":
                pass
            case _:
                parts.append(_part(block, at))
    if parts or len(message) > 2 or not entries:
        entries.append((message, label))
    return entries


def _result(block: dict[str, Any], label: str) -> dict[str, Any]:
    content = block.get("content") or ""
    if isinstance(content, list):
        content = [_part(part, f"{label}.content[{i}]") for i, part in enumerate(content)]
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content}


def _part(block: object, label: str) -> Any:
    """A block as a part of a chat message; what is no medium is left as it is."""
    if not isinstance(block, dict) or "source" not in block:
        return block
    kind, source = block.get("type"), block["source"]
    if kind not in tuple(MediaKind) or not isinstance(source, dict):
        raise BadRequest(f"{label}: a block of type {shown(str(kind))!r} is not read here", param=f"{label}.type")
    if source.get("type") == "url":
        return {"type": f"{kind}_url", f"{kind}_url": source.get("url")}
    data = source.get("data")
    if source.get("type") != "base64" or not isinstance(data, str):
        raise BadRequest(f"{label}.source is a url or base64", param=f"{label}.source")
    return {"type": "file", "file": {"file_data": data, "filename": f"{kind}.{_EXTENSIONS[MediaKind(kind)]}"}}


_EXTENSIONS = {MediaKind.IMAGE: "png", MediaKind.VIDEO: "mp4", MediaKind.AUDIO: "wav"}
"""Names that tell the kind; what a file really is, its bytes say."""
