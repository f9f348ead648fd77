"""`POST /v1/completions`: a text goes on, without a conversation; with its log-probabilities, as evaluations want."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from deployments.config import IngressConfig
from deployments.errors import BadRequest
from deployments.ingress.http.body import Body
from deployments.ingress.http.json_responses import error_document
from deployments.ingress.models import Models
from deployments.ingress.openai.completion_response import CompletionResponse
from deployments.ingress.openai.sampling import limited, sampling_params
from deployments.ingress.openai.schema import HARMLESS, MAX_TOP_LOGPROBS, NEUTRAL, SamplingFields, supported
from deployments.ingress.output.answer import Answer
from deployments.ingress.request import GenerationRequest
from deployments.ingress.wire import NO_FRAME_OPTIONS, validated
from deployments.types import PlainPrompt

DEFAULT_MAX_TOKENS = 16
"""OpenAI's own."""
MAX_PROMPTS = 128
_NEUTRAL = NEUTRAL | {"suffix": (), "add_special_tokens": (True,), "use_beam_search": ()}


class CompletionRequest(SamplingFields):
    """The body."""

    model: str
    prompt: str | list[Any]
    max_tokens: Annotated[int, Field(ge=0)] = DEFAULT_MAX_TOKENS
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None


class Completions:
    """An `Endpoint`."""

    body_type = "application/json"
    error_document = staticmethod(error_document)

    def __init__(self, config: IngressConfig, models: Models) -> None:
        self._config, self._models = config, models

    def read(self, body: Body) -> list[GenerationRequest]:
        if not isinstance(body.document, dict):
            raise BadRequest("the body must be a JSON object")
        request = validated(CompletionRequest, supported(body.document, HARMLESS, _NEUTRAL), "")
        self._models.named(request.model)
        prompts = _prompts(request.prompt)
        if request.stream and len(prompts) > 1:
            raise BadRequest("a stream answers one prompt", param="prompt")
        if request.max_tokens == 0 and not (request.echo and request.logprobs is not None):
            raise BadRequest("`max_tokens` of 0 needs `echo` and `logprobs`", param="max_tokens")
        return [self._request(request, prompt) for prompt in prompts]

    def writer(
        self, requests: Sequence[GenerationRequest], answers: Sequence[Answer], answer_id: str
    ) -> CompletionResponse:
        return CompletionResponse(requests, answers, answer_id, int(time.time()))

    def _request(self, request: CompletionRequest, prompt: str | tuple[int, ...]) -> GenerationRequest:
        longest = limited(request.max_tokens, "max_tokens", self._config)
        scored = request.echo and request.logprobs is not None
        if request.echo and not scored and not isinstance(prompt, str):
            raise BadRequest("`echo` of tokens needs `logprobs`", param="echo")
        params = sampling_params(
            request, self._config, max_tokens=longest, logprobs=request.logprobs, score_prompt=scored
        )
        text = prompt if isinstance(prompt, str) else ""
        ids = None if isinstance(prompt, str) else prompt
        options = request.stream_options
        return GenerationRequest(
            request.model,
            PlainPrompt(text, ids, longest),
            (),
            NO_FRAME_OPTIONS,
            params,
            request.stream,
            include_usage=options is not None and options.include_usage,
            continuous_usage=options is not None and options.continuous_usage_stats,
            echo=text if request.echo and not scored else "",
            reuse=request.sluice.cache,
        )


def _prompts(prompt: str | list[Any]) -> list[str | tuple[int, ...]]:
    """One or several texts or lists of tokens. Raises `BadRequest`."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(type(token) is int for token in prompt):
        return [_tokens(prompt)]
    if not 0 < len(prompt) <= MAX_PROMPTS:
        raise BadRequest(f"`prompt` holds {len(prompt)} prompts; 1 to {MAX_PROMPTS} are taken", param="prompt")
    prompts: list[str | tuple[int, ...]] = []
    for i, one in enumerate(prompt):
        if isinstance(one, str):
            prompts.append(one)
        elif isinstance(one, list) and one and all(type(token) is int for token in one):
            prompts.append(_tokens(one))
        else:
            raise BadRequest(f"`prompt[{i}]` must be a text or a list of tokens", param=f"prompt[{i}]")
    return prompts


def _tokens(tokens: list[int]) -> tuple[int, ...]:
    if not all(0 <= token < 2**31 for token in tokens):
        raise BadRequest("`prompt` holds a number that is no token", param="prompt")
    return tuple(tokens)
