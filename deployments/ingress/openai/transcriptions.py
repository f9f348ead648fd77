"""`POST /v1/audio/transcriptions` for models that hear: the sound, and the request to write down what is said.

A thin mapping to a chat: how well it is done is up to the model, and there are no timestamps.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from deployments.errors import BadRequest, SluiceError, shown
from deployments.ingress.http.body import Body
from deployments.ingress.http.json_responses import error_document, json_response
from deployments.ingress.http.timing import Timings
from deployments.ingress.models import Models
from deployments.ingress.openai import sse
from deployments.ingress.openai.chat_request import read_chat
from deployments.ingress.openai.schema import ChatRequest
from deployments.ingress.output.answer import Answer, ChoiceDelta
from deployments.ingress.request import GenerationRequest
from deployments.ingress.wire import validated

_FIELDS = frozenset({"file", "model", "language", "prompt", "response_format", "temperature", "stream"})
_HARMLESS = frozenset({"timestamp_granularities", "include", "chunking_strategy"})
INSTRUCTION = "Write down what is said in this recording, word for word, and nothing else."


class Transcriptions:
    """An `Endpoint`."""

    body_type = "multipart/form-data"
    error_document = staticmethod(error_document)

    def __init__(self, models: Models) -> None:
        self._models = models

    def read(self, body: Body) -> list[GenerationRequest]:
        form: dict[str, Any] = body.document
        for name in form:
            if name not in _FIELDS | _HARMLESS:
                raise BadRequest(f"unknown field `{shown(name)}`", param=shown(name))
        sound = form.get("file")
        if not isinstance(sound, dict):
            raise BadRequest("`file` is missing", param="file")
        if form.get("response_format", "json") not in ("json", "text"):
            said = "`response_format` is json or text: this model tells no times"
            raise BadRequest(said, param="response_format")
        part = {"type": "input_audio", "input_audio": {"data": sound["file"]}}
        words = {"type": "text", "text": _instruction(form)}
        fields = {
            "model": form.get("model"),
            "messages": [{"role": "user", "content": [part, words]}],
            "stream": str(form.get("stream", "")).lower() == "true",
            "temperature": _number(form.get("temperature", "0")),
        }
        request = read_chat(validated(ChatRequest, fields, ""), ["file"], body, self._models)
        return [replace(request, wording=form.get("response_format", "json"))]

    def writer(
        self, requests: Sequence[GenerationRequest], answers: Sequence[Answer], answer_id: str
    ) -> "TranscriptionResponse":
        return TranscriptionResponse(answers[0], plain=requests[0].wording == "text")


class TranscriptionResponse:
    """A `Writer`."""

    def __init__(self, answer: Answer, *, plain: bool) -> None:
        self._answer = answer
        self._plain = plain

    def whole(self, timings: Timings) -> Response:
        text = self._answer.choices[0].content.strip()
        return Response(text + "\n", media_type="text/plain") if self._plain else json_response(self._document(text))

    def opening(self) -> bytes:
        return b""

    def pieces(self, deltas: Sequence[ChoiceDelta]) -> bytes:
        told = [{"type": "transcript.text.delta", "delta": delta.content} for delta in deltas if delta.content]
        return b"".join(sse.event(event) for event in told)

    def closing(self, timings: Timings) -> bytes:
        done = self._document(self._answer.choices[0].content.strip())
        return sse.event({"type": "transcript.text.done", **done}) + sse.DONE

    def failure(self, error: SluiceError) -> bytes:
        return sse.event(error_document(error)) + sse.DONE

    def _document(self, text: str) -> dict[str, Any]:
        used, said = self._answer.prompt.prepared.counts, self._answer.completion_tokens
        details = {"text_tokens": used["text"], "audio_tokens": used["audio"]}
        usage = {"type": "tokens", "input_tokens": used.total, "output_tokens": said, "input_token_details": details}
        return {"text": text, "usage": {**usage, "total_tokens": used.total + said}}


def _instruction(form: dict[str, Any]) -> str:
    words = INSTRUCTION
    if form.get("language"):
        words += f" The language is {form['language']}."
    if form.get("prompt"):
        words += f" It follows on: {form['prompt']}"
    return words


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        raise BadRequest("`temperature` must be a number", param="temperature") from None
