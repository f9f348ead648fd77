"""An answer in the words of chat completions: `chat.completion`, `chat.completion.chunk`, usage."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from deployments.errors import SluiceError
from deployments.ingress.http.json_responses import error_document, json_response
from deployments.ingress.http.timing import Timings
from deployments.ingress.openai import sse
from deployments.ingress.output.answer import Answer, AnswerChoice, Call, CallDelta, ChoiceDelta
from deployments.ingress.output.usage import usage
from deployments.ingress.request import GenerationRequest
from deployments.types import TokenLogprob


class ChatResponse:
    """A `Writer`."""

    def __init__(self, request: GenerationRequest, answer: Answer, answer_id: str, created_s: int) -> None:
        self._request = request
        self._answer = answer
        self._head = {"id": f"chatcmpl-{answer_id}", "created": created_s, "model": request.model}
        self._begun: set[int] = set()

    def whole(self, timings: Timings) -> Response:
        choices = [self._worded(choice) for choice in self._answer.choices]
        used = usage([self._answer], timings)
        document = {**self._head, "object": "chat.completion", "choices": choices, "usage": used}
        if self._request.params.return_token_ids:
            document["prompt_token_ids"] = self._answer.prompt.prepared.token_ids.tolist()
        return json_response(document)

    def opening(self) -> bytes:
        return b""

    def pieces(self, deltas: Sequence[ChoiceDelta]) -> bytes:
        return b"".join(sse.event(self._event([self._worded_delta(delta)])) for delta in deltas)

    def closing(self, timings: Timings) -> bytes:
        if not self._request.include_usage:
            return sse.DONE
        event = {**self._event([]), "usage": usage([self._answer], timings)}
        return sse.event(event) + sse.DONE

    def failure(self, error: SluiceError) -> bytes:
        return sse.event(error_document(error)) + sse.DONE

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        event: dict[str, Any] = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._request.continuous_usage:
            event["usage"] = usage([self._answer], None)
        elif self._request.include_usage:
            event["usage"] = None
        return event

    def _worded(self, choice: AnswerChoice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.content, "refusal": None}
        if choice.thoughts:
            message["reasoning_content"] = message["reasoning"] = choice.thoughts
        if choice.calls:
            message["content"] = choice.content or None
            message["tool_calls"] = [_worded_call(call) for call in choice.calls]
        worded = {
            "index": choice.index,
            "message": message,
            "logprobs": worded_logprobs(choice.logprobs) if choice.logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        if choice.stop_reason is not None:
            worded["stop_reason"] = choice.stop_reason
        if self._request.params.return_token_ids:
            worded["token_ids"] = choice.token_ids
        return worded

    def _worded_delta(self, delta: ChoiceDelta) -> dict[str, Any]:
        words: dict[str, Any] = {}
        content = delta.content
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            words |= {"role": "assistant", "content": ""}
            content = self._request.echo + content
        if delta.thoughts:
            words["reasoning_content"] = words["reasoning"] = delta.thoughts
        if content:
            words["content"] = content
        if delta.calls:
            words["tool_calls"] = [_worded_call_delta(call) for call in delta.calls]
        worded: dict[str, Any] = {
            "index": delta.index,
            "delta": words,
            "logprobs": worded_logprobs(delta.logprobs) if delta.logprobs else None,
            "finish_reason": delta.finish_reason,
        }
        if self._request.params.return_token_ids:
            worded["token_ids"] = delta.token_ids
        return worded


def _worded_call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _worded_call_delta(call: CallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def worded_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [
        {**_worded_token(entry), "top_logprobs": [_worded_token(top) for top in entry.top]} for entry in logprobs
    ]
    return {"content": content, "refusal": None}


def _worded_token(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.token, "bytes": list(entry.raw), "logprob": entry.logprob}
