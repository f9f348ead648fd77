"""A stage in its caller's process keeps what one in a replica keeps: errors, time, cancelling, its bound."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, InternalError, Overloaded, StageTimeout
from deployments.fetcher.deployment import MediaFetcher
from deployments.ingress.app import Api
from deployments.observability.metrics import RecordingSink
from deployments.preprocessor.deployment import Preprocessor
from deployments.serving.in_process import Hosted, InProcess
from deployments.serving.replica import stage_method
from deployments.stage_calls import TensorRef
from deployments.stages import Stages
from tests.support.fakes import FakeApplication, FakeModel, FakeStage, hello
from tests.support.media_files import make_picture


class Worker:
    def __init__(self, config: AppConfig) -> None:
        self.ends = self.cancelled = 0
        self.gate = asyncio.Event()

    @stage_method
    async def double(self, remaining_s: float, label: str, array: NDArray[Any]) -> AsyncGenerator[Any, None]:
        yield label
        yield array * 2

    @stage_method
    async def same(self, remaining_s: float, array: NDArray[Any]) -> AsyncGenerator[Any, None]:
        yield "the same"
        yield array

    @stage_method
    async def refuse(self, remaining_s: float) -> AsyncGenerator[Any, None]:
        raise BadMedia("not a picture", param="messages[0].content[1]")
        yield

    @stage_method
    async def break_down(self, remaining_s: float) -> AsyncGenerator[Any, None]:
        yield 1 // 0

    @stage_method
    async def wait(self, remaining_s: float) -> AsyncGenerator[Any, None]:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        yield "waited"

    async def check_health(self) -> None:
        raise InternalError("a thread does not stop")

    async def __del__(self) -> None:
        self.ends += 1


def hosted(max_calls: int = 8) -> tuple[InProcess, Worker]:
    worker = type("Kept", (Worker,), {"__del__": lambda self: None})(AppConfig())
    return InProcess(worker, Worker.__del__, "preprocess", max_calls), worker


async def test_payloads_are_handed_on_as_they_are() -> None:
    stage, _ = hosted()
    array = np.arange(3)
    result = await stage.call("double", Deadline(5, "request"), "two", payloads=[TensorRef(array)])
    assert result.meta == "two"
    np.testing.assert_array_equal(result.payload, [0, 2, 4])  # type: ignore[arg-type]
    assert (await stage.call("same", Deadline(5, "request"), payloads=[TensorRef(array)])).payload is array


async def test_errors_are_those_of_a_replica() -> None:
    stage, _ = hosted()
    with pytest.raises(BadMedia, match="not a picture") as refused:
        await stage.call("refuse", Deadline(5, "request"))
    assert refused.value.param == "messages[0].content[1]"
    with pytest.raises(InternalError, match="the preprocess stage failed"):
        await stage.call("break_down", Deadline(5, "request"))
    with pytest.raises(InternalError, match="does not stop"):
        await stage.check_health()


async def test_a_call_whose_time_is_over_is_cancelled_and_leaves_its_place() -> None:
    stage, worker = hosted(max_calls=1)
    with pytest.raises(StageTimeout):
        await stage.call("wait", Deadline(0.5, "request"))
    assert worker.cancelled == 1
    worker.gate.set()
    assert (await stage.call("wait", Deadline(5, "request"))).meta == "waited"


async def test_who_finds_no_place_is_refused_and_who_leaves_makes_room() -> None:
    stage, worker = hosted(max_calls=1)
    first = asyncio.create_task(stage.call("wait", Deadline(5, "request")))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="the preprocess stage has no room now") as refused:
        await stage.call("wait", Deadline(5, "request"))
    assert refused.value.retry_after_s
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert worker.cancelled == 1
    worker.gate.set()
    assert (await stage.call("wait", Deadline(5, "request"))).meta == "waited"


async def test_what_is_started_is_ended_once() -> None:
    stage = Hosted(Worker, AppConfig()).start("preprocess")
    worker = stage._replica
    await stage.close()
    assert worker.ends == 1


async def test_a_picture_comes_from_the_body_to_the_model_without_shared_memory() -> None:
    """The stages themselves; of the model's side, only what it is asked for."""
    config = AppConfig(placement="together")
    fetcher = Hosted(MediaFetcher.func_or_class, config).start("fetch")
    preprocessor = Hosted(Preprocessor.func_or_class, config).start("preprocess")
    model = FakeModel(chunks=hello())
    stages = Stages.over(fetcher, FakeStage(), {"demo": (preprocessor, model)})
    api = Api(config, stages, TensorRef, RecordingSink(), FakeApplication._metrics_page, 2**30)
    picture = base64.b64encode(make_picture("PNG", width=320, height=240)).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}
    body = {"model": "demo", "messages": [{"role": "user", "content": [image, {"type": "text", "text": "?"}]}]}
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://sluice") as client:
        answer = await client.post("/v1/chat/completions", json=body)
    await fetcher.close()
    await preprocessor.close()
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"
    stages_told = [entry.partition(";")[0] for entry in answer.headers["server-timing"].split(", ")]
    assert {"fetch", "preprocess"} <= set(stages_told)
    (call,) = model.calls
    (tensors,) = call.payloads
    assert {type(array) for array in tensors.values()} == {np.ndarray}
    assert call.args[0].counts["image"] > 0
