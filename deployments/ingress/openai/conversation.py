"""The messages of a conversation, tool calls and their results among them, as the preprocessor takes them."""

from typing import Literal

import orjson

from deployments.config import IngressConfig
from deployments.errors import BadRequest, TooManyItems
from deployments.ingress.openai.content_parts import PartReader
from deployments.ingress.openai.schema import AskedCall, Message, parse_message
from deployments.ingress.request import ItemPlan
from deployments.types import ChatMessage, ChatPart, MediaKind, ToolCall

MAX_MESSAGES = 1024
MAX_PARTS = 1024
MAX_CALLS = 256

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: dict[str, Role] = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}


def check_size(messages: object, param: str) -> None:
    """Bounds what validation may cost. Raises `BadRequest`."""
    if not isinstance(messages, list):
        return
    if len(messages) > MAX_MESSAGES:
        raise BadRequest(f"there are {len(messages)} messages; at most {MAX_MESSAGES} are allowed", param=param)
    named = [message for message in messages if isinstance(message, dict)]
    for key, most, what in (("content", MAX_PARTS, "parts"), ("tool_calls", MAX_CALLS, "tool calls")):
        lists = [message.get(key) for message in named]
        total = sum(len(value) for value in lists if isinstance(value, list))
        if total > most:
            raise BadRequest(f"the messages have {total} {what}; at most {most} are allowed", param=param)


def read_message(document: object, label: str, reader: PartReader) -> ChatMessage:
    """One message, its media noted by `reader`. Raises `BadRequest` or `TooManyItems` naming what is at fault."""
    message = parse_message(document, label)
    _check_role(message, label)
    parts = [ChatPart(p) if isinstance(p, str) else ChatPart(None, p) for p in reader.read(message, label)]
    if message.refusal:
        parts.append(ChatPart(message.refusal))
    calls = [_call(call, f"{label}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)]
    return ChatMessage(
        _ROLES.get(message.role, "tool"),
        tuple(parts),
        tuple(calls),
        message.tool_call_id,
        message.reasoning_content or message.reasoning or None,
    )


def check_counts(items: list[ItemPlan], config: IngressConfig) -> None:
    """Raises `TooManyItems` naming the first one too many."""
    limits = {
        MediaKind.IMAGE: config.max_images,
        MediaKind.VIDEO: config.max_videos,
        MediaKind.AUDIO: config.max_audios,
    }
    for kind, limit in limits.items():
        named = [item for item in items if item.kind == kind]
        if len(named) > limit:
            said = f"the request has {len(named)} {kind} items; at most {limit} are allowed"
            raise TooManyItems(said, param=named[limit].label)


def _check_role(message: Message, label: str) -> None:
    if message.role == "tool" and message.tool_call_id is None:
        raise BadRequest(f"`{label}.tool_call_id` is missing", param=f"{label}.tool_call_id")
    for name in ("tool_calls", "reasoning_content", "reasoning", "refusal"):
        if message.role != "assistant" and getattr(message, name):
            raise BadRequest(f"`{label}.{name}` is for an assistant's message", param=f"{label}.{name}")
    if message.role != "tool" and message.tool_call_id is not None:
        raise BadRequest(f"`{label}.tool_call_id` is for a tool's message", param=f"{label}.tool_call_id")


def _call(call: AskedCall, label: str) -> ToolCall:
    said = call.function.arguments
    if isinstance(said, dict):
        return ToolCall(call.id, call.function.name, orjson.dumps(said).decode())
    param = f"{label}.function.arguments"
    try:
        arguments = orjson.loads(said or "{}")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"`{param}` is not valid JSON: {error.msg}", param=param) from error
    if not isinstance(arguments, dict):
        raise BadRequest(f"`{param}` must be the JSON text of an object", param=param)
    return ToolCall(call.id, call.function.name, said or "{}")
