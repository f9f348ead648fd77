"""`POST /v1/chat/completions`."""

import time
from collections.abc import Sequence

from deployments.ingress.http.body import Body
from deployments.ingress.http.json_responses import error_document
from deployments.ingress.models import Models
from deployments.ingress.openai.chat_request import read_request
from deployments.ingress.openai.chat_response import ChatResponse
from deployments.ingress.output.answer import Answer
from deployments.ingress.request import GenerationRequest


class ChatCompletions:
    """An `Endpoint`."""

    body_type = "application/json"
    error_document = staticmethod(error_document)

    def __init__(self, models: Models) -> None:
        self._models = models

    def read(self, body: Body) -> list[GenerationRequest]:
        return [read_request(body, self._models)]

    def writer(self, requests: Sequence[GenerationRequest], answers: Sequence[Answer], answer_id: str) -> ChatResponse:
        return ChatResponse(requests[0], answers[0], answer_id, int(time.time()))
