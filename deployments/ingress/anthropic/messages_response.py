"""An answer in Anthropic's words: a message of blocks, or events that open, fill and close one after the other."""

from collections.abc import Sequence
from typing import Any

import orjson
from starlette.responses import Response

from deployments.errors import SluiceError, shown
from deployments.ingress.http.json_responses import MAX_MESSAGE_CHARS, json_response
from deployments.ingress.http.timing import Timings
from deployments.ingress.output.answer import Answer, ChoiceDelta

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_document(error: SluiceError) -> dict[str, Any]:
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": shown(error.message, MAX_MESSAGE_CHARS)}}


class MessagesResponse:
    """A `Writer`."""

    def __init__(self, answer: Answer, answer_id: str, model: str) -> None:
        self._answer = answer
        self._choice = answer.choices[0]
        self._head = {"id": f"msg_{answer_id}", "type": "message", "role": "assistant", "model": model}
        self._block = -1
        self._open: str | None = None
        """What the open block is: `thinking`, `text`, or a call by its number."""

    def whole(self, timings: Timings) -> Response:
        choice = self._choice
        content: list[dict[str, Any]] = []
        if choice.thoughts:
            content.append({"type": "thinking", "thinking": choice.thoughts, "signature": ""})
        if choice.content or not choice.calls:
            content.append({"type": "text", "text": choice.content})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _object(call.arguments)}
            for call in choice.calls
        ]
        return json_response({**self._head, "content": content, **self._end(), "usage": self._usage()})

    def opening(self) -> bytes:
        message: dict[str, Any] = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None}
        usage = {**self._usage(), "output_tokens": 0}
        return _event("message_start", message={**message, "usage": usage})

    def pieces(self, deltas: Sequence[ChoiceDelta]) -> bytes:
        return b"".join(self._piece(delta) for delta in deltas)

    def closing(self, timings: Timings) -> bytes:
        empty = b"" if self._block >= 0 else self._begin("text", {"type": "text", "text": ""})
        last = _event("message_delta", delta=self._end(), usage=self._usage())
        return empty + self._close() + last + _event("message_stop")

    def failure(self, error: SluiceError) -> bytes:
        return _event("error", error=error_document(error)["error"])

    def _piece(self, delta: ChoiceDelta) -> bytes:
        said = b""
        if delta.thoughts:
            said += self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            said += self._fill({"type": "thinking_delta", "thinking": delta.thoughts})
        if delta.content:
            said += self._begin("text", {"type": "text", "text": ""})
            said += self._fill({"type": "text_delta", "text": delta.content})
        for call in delta.calls:
            if call.id is not None:
                block: dict[str, Any] = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
                said += self._begin(str(call.index), block)
            if call.arguments:
                said += self._fill({"type": "input_json_delta", "partial_json": call.arguments})
        return said

    def _begin(self, what: str, block: dict[str, Any]) -> bytes:
        if self._open == what:
            return b""
        closed = self._close()
        self._open, self._block = what, self._block + 1
        return closed + _event("content_block_start", index=self._block, content_block=block)

    def _fill(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._block, delta=delta)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", index=self._block)

    def _end(self) -> dict[str, Any]:
        choice = self._choice
        stop = choice.stop_reason if isinstance(choice.stop_reason, str) else None
        reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
        reason = "stop_sequence" if stop is not None else reasons.get(choice.finish_reason or "", "end_turn")
        return {"stop_reason": reason, "stop_sequence": stop}

    def _usage(self) -> dict[str, Any]:
        counts = self._answer.prompt.prepared.counts
        cached = self._answer.cached_tokens  # in this API's words not among the input tokens
        return {
            "input_tokens": counts.total - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": self._answer.completion_tokens,
        }


def _object(arguments: str) -> Any:
    try:
        return orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return {}  # broken off by the answer's length


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **fields}) + b"\n\n"
