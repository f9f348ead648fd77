"""An answer in the words of the Responses API: an object with output items, or the events by which it comes to be."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

from deployments.errors import SluiceError, shown
from deployments.ingress.http.json_responses import MAX_MESSAGE_CHARS, json_response
from deployments.ingress.http.timing import Timings
from deployments.ingress.openai.chat_response import worded_logprobs
from deployments.ingress.openai.response_store import Items, ResponseStore
from deployments.ingress.output.answer import Answer, ChoiceDelta


@dataclass(frozen=True, slots=True)
class ResponseSettings:
    """What the wording of a response needs of its request."""

    echoed: dict[str, Any]
    history: Items | None
    """The conversation up to the response; None: it is not kept."""


class ResponsesWriter:
    """A `Writer`."""

    def __init__(
        self, settings: ResponseSettings, answer: Answer, answer_id: str, model: str, store: ResponseStore
    ) -> None:
        self._settings = settings
        self._answer = answer
        self._choice = answer.choices[0]
        self._id = answer_id
        self._store = store
        self._head = {"id": f"resp_{answer_id}", "object": "response", "created_at": int(time.time()), "model": model}
        self._items: list[dict[str, Any]] = []
        """Output items of a stream, the last one open while `_open` says what it is."""
        self._open: str | None = None
        self._number = 0

    def whole(self, timings: Timings) -> Response:
        choice = self._choice
        if choice.thoughts:
            self._items.append(self._reasoning(choice.thoughts))
        if choice.content or not choice.calls:
            message = self._message(choice.content, "completed")
            message["content"][0]["logprobs"] = worded_logprobs(choice.logprobs)["content"]
            self._items.append(message)
        for call in choice.calls:
            self._items.append(self._call(call.id, call.name, call.arguments, "completed"))
        return json_response(self._finished())

    def opening(self) -> bytes:
        response = self._response("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def pieces(self, deltas: Sequence[ChoiceDelta]) -> bytes:
        return b"".join(self._piece(delta) for delta in deltas)

    def closing(self, timings: Timings) -> bytes:
        said = b"" if self._items else self._begin("text", self._message("", "in_progress"))
        said += self._close()
        response = self._finished()
        return said + self._event(f"response.{response['status']}", response=response)

    def failure(self, error: SluiceError) -> bytes:
        told = {"code": error.code, "message": shown(error.message, MAX_MESSAGE_CHARS)}
        return self._event("response.failed", response={**self._response("failed"), "error": told})

    def _finished(self) -> dict[str, Any]:
        cut = self._choice.finish_reason == "length"
        response = self._response("incomplete" if cut else "completed")
        response["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        response["usage"] = self._usage()
        if self._settings.history is not None:
            self._store.keep(response, (*self._settings.history, *self._items))
        return response

    def _response(self, status: str) -> dict[str, Any]:
        head = {**self._head, **self._settings.echoed, "status": status, "error": None, "incomplete_details": None}
        text = "".join(part["text"] for item in self._items if item["type"] == "message" for part in item["content"])
        return head | {"output": list(self._items), "output_text": text, "usage": None}

    def _usage(self) -> dict[str, Any]:
        used, said = self._answer.prompt.prepared.counts.total, self._answer.completion_tokens
        return {
            "input_tokens": used,
            "input_tokens_details": {"cached_tokens": self._answer.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": said,
            "output_tokens_details": {"reasoning_tokens": self._answer.reasoning_tokens},
            "total_tokens": used + said,
        }

    def _piece(self, delta: ChoiceDelta) -> bytes:
        said = b""
        if delta.thoughts:
            said += self._begin("thoughts", self._reasoning(""))
            self._items[-1]["content"][0]["text"] += delta.thoughts
            said += self._part("response.reasoning_text.delta", delta=delta.thoughts)
        if delta.content:
            said += self._begin("text", self._message("", "in_progress"))
            self._items[-1]["content"][0]["text"] += delta.content
            logprobs = worded_logprobs(delta.logprobs)["content"]
            self._items[-1]["content"][0]["logprobs"] += logprobs
            said += self._part("response.output_text.delta", delta=delta.content, logprobs=logprobs)
        for call in delta.calls:
            if call.id is not None:
                item = self._call(call.id, call.name or "", "", "in_progress")
                said += self._begin(str(call.index), item)
            if call.arguments:
                self._items[-1]["arguments"] += call.arguments
                said += self._of_item("response.function_call_arguments.delta", delta=call.arguments)
        return said

    def _begin(self, what: str, item: dict[str, Any]) -> bytes:
        """Open an item, the one before it closed, unless it is open already."""
        if self._open == what:
            return b""
        said = self._close()
        self._open = what
        self._items.append(item)
        empty = {**item, "content": []} if item["type"] == "message" else item
        said += self._event("response.output_item.added", output_index=len(self._items) - 1, item=empty)
        if item["type"] == "message":
            said += self._part("response.content_part.added", part=item["content"][0])
        return said

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open, item = None, self._items[-1]
        said = b""
        if item["type"] == "message":
            item["status"] = "completed"
            part = item["content"][0]
            said += self._part("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
            said += self._part("response.content_part.done", part=item["content"][0])
        elif item["type"] == "reasoning":
            said += self._part("response.reasoning_text.done", text=item["content"][0]["text"])
        else:
            item["status"] = "completed"
            done = {"name": item["name"], "arguments": item["arguments"]}
            said += self._of_item("response.function_call_arguments.done", **done)
        return said + self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _part(self, kind: str, **fields: Any) -> bytes:
        return self._of_item(kind, content_index=0, **fields)

    def _of_item(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, output_index=len(self._items) - 1, item_id=self._items[-1]["id"], **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        document = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(document) + b"\n\n"

    def _reasoning(self, text: str) -> dict[str, Any]:
        content = [{"type": "reasoning_text", "text": text}]
        return {"type": "reasoning", "id": f"rs_{self._id}", "summary": [], "content": content}

    def _message(self, text: str, status: str) -> dict[str, Any]:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        head = {"type": "message", "id": f"msg_{self._id}_{len(self._items)}", "role": "assistant"}
        return {**head, "status": status, "content": [part]}

    def _call(self, call_id: str, name: str, arguments: str, status: str) -> dict[str, Any]:
        item_id = f"fc_{self._id}_{len(self._items)}"
        call = {"type": "function_call", "id": item_id, "call_id": call_id, "name": name}
        return {**call, "arguments": arguments, "status": status}
