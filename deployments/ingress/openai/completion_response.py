"""Answers in the words of completions: `text_completion`, with log-probabilities as lists beside each other."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from deployments.errors import SluiceError
from deployments.ingress.http.json_responses import error_document, json_response
from deployments.ingress.http.timing import Timings
from deployments.ingress.openai import sse
from deployments.ingress.output.answer import Answer, AnswerChoice, ChoiceDelta
from deployments.ingress.output.usage import usage
from deployments.ingress.request import GenerationRequest
from deployments.types import TokenLogprob


class CompletionResponse:
    """A `Writer`; the choices of several prompts stand one after the other."""

    def __init__(
        self,
        requests: Sequence[GenerationRequest],
        answers: Sequence[Answer],
        answer_id: str,
        created_s: int,
    ) -> None:
        self._requests = requests
        self._answers = answers
        self._head = {
            "id": f"cmpl-{answer_id}",
            "object": "text_completion",
            "created": created_s,
            "model": requests[0].model,
        }
        self._said = ["" for _ in answers[0].choices]
        """Of a stream, by choice: where each token's text begins follows from it."""

    def whole(self, timings: Timings) -> Response:
        choices: list[dict[str, Any]] = []
        for answer in self._answers:
            choices += [self._worded(choice, len(choices) + i) for i, choice in enumerate(answer.choices)]
        return json_response({**self._head, "choices": choices, "usage": usage(self._answers, timings)})

    def opening(self) -> bytes:
        return b""

    def pieces(self, deltas: Sequence[ChoiceDelta]) -> bytes:
        return b"".join(sse.event(self._event([self._worded_delta(delta)])) for delta in deltas)

    def closing(self, timings: Timings) -> bytes:
        if not self._requests[0].include_usage:
            return sse.DONE
        return sse.event({**self._event([]), "usage": usage(self._answers, timings)}) + sse.DONE

    def failure(self, error: SluiceError) -> bytes:
        return sse.event(error_document(error)) + sse.DONE

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        event: dict[str, Any] = {**self._head, "choices": choices}
        if self._requests[0].continuous_usage:
            event["usage"] = usage(self._answers, None)
        elif self._requests[0].include_usage:
            event["usage"] = None
        return event

    def _worded(self, choice: AnswerChoice, index: int) -> dict[str, Any]:
        scored = self._requests[0].params.score_prompt
        text = "".join(token.token for token in choice.logprobs) if scored else choice.content
        worded = {
            "index": index,
            "text": text,
            "logprobs": _worded_logprobs(choice.logprobs, 0) if choice.logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        return worded | ({"token_ids": choice.token_ids} if choice.token_ids else {})

    def _worded_delta(self, delta: ChoiceDelta) -> dict[str, Any]:
        before = self._said[delta.index]
        text = delta.content if before else self._requests[0].echo + delta.content
        self._said[delta.index] = before + text
        return {
            "index": delta.index,
            "text": text,
            "logprobs": _worded_logprobs(delta.logprobs, len(before)) if delta.logprobs else None,
            "finish_reason": delta.finish_reason,
        }


def _worded_logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    offsets = []
    for token in logprobs:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in logprobs],
        "token_logprobs": [token.logprob for token in logprobs],
        "top_logprobs": [
            None if token.logprob is None else {top.token: top.logprob for top in reversed(token.top)}
            for token in logprobs
        ],
        "text_offset": offsets,
    }
