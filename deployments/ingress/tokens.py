"""`POST /tokenize` and `/detokenize`: how a text or a conversation reads as tokens, media among it, and back.

A conversation's media are fetched and prepared as for an answer, within the same admission; nothing is generated.
Parts that tell their size (`width` and `height`, of videos `num_frames` too, of sounds `duration_s`) are counted by it
and not fetched.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response

from deployments.errors import BadRequest
from deployments.ingress.http.body import Body
from deployments.ingress.http.json_responses import error_document, json_response
from deployments.ingress.models import Models
from deployments.ingress.openai.chat_request import read_request
from deployments.ingress.pipeline.pipeline import ReadyPrompt
from deployments.ingress.request import GenerationRequest
from deployments.ingress.wire import NO_FRAME_OPTIONS, Wire, validated
from deployments.types import MODALITIES, MediaProfile, PlainPrompt, SamplingParams

MAX_TOKENS = 2**20


class TokenizeRequest(Wire):
    """Of a text; of a conversation it is a chat request."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(Wire):
    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=MAX_TOKENS)]


class Tokenize:
    """A `CountingEndpoint`."""

    body_type = "application/json"
    error_document = staticmethod(error_document)

    def __init__(self, models: Models) -> None:
        self._models = models

    def read(self, body: Body) -> list[GenerationRequest]:
        document = body.document
        if not isinstance(document, dict):
            raise BadRequest("the body must be a JSON object")
        if "messages" in document:
            document.pop("return_token_strs", None)
            document["model"] = self._models.named_or_only(document.get("model"))
            return [read_request(body, self._models, counts=True)]
        request = validated(TokenizeRequest, document, "")
        model, prompt = self._models.named_or_only(request.model), PlainPrompt(request.prompt, None, 0)
        return [GenerationRequest(model, prompt, (), NO_FRAME_OPTIONS, SamplingParams())]

    def respond(self, requests: Sequence[GenerationRequest], prompt: ReadyPrompt, profile: MediaProfile) -> Response:
        counts = prompt.prepared.counts
        document: dict[str, Any] = {
            "count": counts.total,
            "max_model_len": profile.context_length,
            "tokens": prompt.prepared.token_ids.tolist(),
            "token_strs": None,
            "details": {modality: counts[modality] for modality in MODALITIES},
        }
        return json_response(document)


def read_tokens(document: dict[str, Any], models: Models) -> tuple[str, tuple[int, ...]]:
    """The model and the tokens in the body of `/detokenize`. Raises `BadRequest` and `ModelNotFound`."""
    request = validated(DetokenizeRequest, document, "")
    return models.named_or_only(request.model), tuple(request.tokens)
