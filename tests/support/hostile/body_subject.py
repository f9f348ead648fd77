"""The whole of what a body meets before any work, fed with bytes: reading, parsing, admission, fetching its media.

The ingress is the real one and so is the fetcher, whose only way out is a name that leads to loopback; what comes after
it are fakes.
"""

import asyncio
import encodings.idna  # noqa: F401  # read from files on the first use, as the tables below
import json
from collections.abc import Sequence
from typing import Any

import httpx
import idna.uts46data  # noqa: F401
import numpy as np

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.fetcher.fetcher import Fetcher
from deployments.ingress.app import Api
from deployments.observability.metrics import RecordingSink
from deployments.stage_calls import StageResult, TensorRef
from deployments.stages import Stages
from tests.support.fakes import FakeApplication

MAX_ANSWER_BYTES = 20_000
_CONFIG = AppConfig.model_validate(
    {"media": {"allowed_domains": ["media.example"], "max_image_bytes": 2**20}, "ingress": {"max_text_bytes": 2**18}}
)


class _FetchStage:
    """`Fetcher` as the ingress sees it, without Ray."""

    def __init__(self, app: FakeApplication) -> None:
        self._app = app
        self._fetcher = Fetcher(app.config.media, RecordingSink(), lookup=_loopback)

    async def call(
        self, method: str, deadline: Deadline, *args: Any, payloads: Sequence[TensorRef] = (), key: str = ""
    ) -> StageResult[Any]:
        text = None
        if payloads:
            text = np.frombuffer(self._app.shared[int(str(payloads[0]).removeprefix("shared "))], np.uint8)
        fetched, data = await self._fetcher.fetch(args[0], deadline, text)
        return StageResult(fetched, TensorRef(data), 0.001)

    def stream(self, method: str, deadline: Deadline, *args: Any, **options: Any) -> Any:
        raise AssertionError("fetches are not streamed")


class BodySubject:
    """Says the status that each body gets; raises for an answer that no client should see."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._fakes = FakeApplication(_CONFIG)
        self._loop.run_until_complete(self._build())

    def feed(self, data: bytes) -> str:
        return self._loop.run_until_complete(self._post(data))

    async def _build(self) -> None:
        fakes = self._fakes
        stages = Stages.over(_FetchStage(fakes), fakes.decoder, {"demo": (fakes.preprocessor, fakes.model)})
        fakes.api = Api(fakes.config, stages, fakes._put, fakes.metrics, fakes._metrics_page, 2**30)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(fakes.api), base_url="http://sluice")

    async def _post(self, data: bytes) -> str:
        response = await self._client.post(
            "/v1/chat/completions", content=data, headers={"content-type": "application/json"}
        )
        check_answer(response)
        admission, lanes = self._fakes.api.admission, self._fakes.lanes
        assert admission.media.held_bytes == lanes.media.running == 0
        assert lanes.text.running == admission.bodies.held_bytes == 0
        for stage in (self._fakes.decoder, self._fakes.preprocessor, self._fakes.model):
            stage.calls.clear()
        self._fakes.shared.clear()
        return str(response.status_code)


def check_answer(response: httpx.Response) -> None:
    """An answer, or a refusal in OpenAI's shape that gives nothing away."""
    assert response.status_code in (200, 400, 404, 413, 415), f"{response.status_code}: {response.text[:500]}"
    if response.status_code == 200:
        return
    assert len(response.content) < MAX_ANSWER_BYTES, response.text[:500]
    error = json.loads(response.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str), error
    assert error["message"], error
    for secret in ("0x", "Traceback", "deployments/", "site-packages", "object at"):
        assert secret not in error["message"] or secret.encode() in response.request.content, error


async def _loopback(host: str) -> list[str]:
    return ["127.0.0.1"]
