"""Streams over a real socket, as the official client reads them; and clients that hang up."""

import asyncio

import httpx
import openai
import orjson
import pytest

from deployments.errors import Overloaded, StageUnavailable
from deployments.types import GenerateChunk, TokenDelta
from tests.ingress.conftest import Serve
from tests.support.fakes import TIMES, FakeApplication

MESSAGES = [{"role": "user", "content": "hi"}]
VIDEO = {"type": "video_url", "video_url": {"url": "https://media.example/b.mp4"}}


def official(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_the_official_client_reads_an_answer(serve: Serve) -> None:
    async with serve(FakeApplication().api) as url, official(url) as client:
        answer = await client.chat.completions.create(model="demo", messages=MESSAGES)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello", "stop")
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3


async def test_the_official_client_reads_a_stream_and_its_usage(serve: Serve) -> None:
    async with serve(FakeApplication().api) as url, official(url) as client:
        stream = await client.chat.completions.create(
            model="demo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content for chunk in chunks[:-1]] == ["Hel", "lo"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.total_tokens == 13
    assert set(usage.model_extra["sluice_timing_ms"]) >= {"queue", "prefill", "decode"}
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_without_usage_has_none_and_ends_with_done() -> None:
    response = await FakeApplication().chat("hi", stream=True)
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all("usage" not in orjson.loads(event.removeprefix("data: ")) for event in events[:-1])
    assert response.headers["content-type"].startswith("text/event-stream")


async def test_the_first_token_is_sent_before_the_second_is_there(serve: Serve) -> None:
    app = FakeApplication()
    app.model.gate = asyncio.Event()
    async with serve(app.api) as url, official(url) as client:
        stream = await client.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
        first = await anext(stream)
        assert first.choices[0].delta.content == "Hel"
        app.model.gate.set()
        assert [chunk.choices[0].delta.content async for chunk in stream] == ["lo"]


async def test_deltas_without_text_are_not_sent() -> None:
    app = FakeApplication()
    app.model.chunks.insert(1, GenerateChunk((TokenDelta(0, "", 1),)))
    response = await app.chat("hi", stream=True)
    assert response.text.count("data: {") == 2


async def test_the_official_client_raises_the_error_of_a_broken_stream(serve: Serve) -> None:
    app = FakeApplication()
    app.model.chunks[1] = StageUnavailable("a replica was lost")
    async with serve(app.api) as url, official(url) as client:
        stream = await client.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
        assert (await anext(stream)).choices[0].delta.content == "Hel"
        with pytest.raises(openai.APIError, match="a replica was lost"):
            await anext(stream)


async def test_the_official_client_raises_refusals_by_their_kind(serve: Serve) -> None:
    app = FakeApplication()
    app.model.chunks = [Overloaded("no room", retry_after_s=7)]
    async with serve(app.api) as url, official(url) as client:
        with pytest.raises(openai.RateLimitError) as refusal:
            await client.chat.completions.create(model="demo", messages=MESSAGES)
        assert refusal.value.response.headers["retry-after"] == "7"
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="other", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError, match="frobnicate"):
            await client.chat.completions.create(model="demo", messages=MESSAGES, extra_body={"frobnicate": 1})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_stops_the_model(serve: Serve, stream: bool) -> None:
    app = FakeApplication()
    app.model.gate = asyncio.Event()
    async with serve(app.api) as url:
        request = asyncio.create_task(_post(url, {"model": "demo", "messages": MESSAGES, "stream": stream}))
        await until(lambda: app.model.inside)
        request.cancel()
        await until(lambda: app.model.cancelled and not app.model.inside)
        assert app.lanes.text.running == 0


async def test_a_client_that_hangs_up_stops_decoding(serve: Serve) -> None:
    app = FakeApplication()
    app.decoder.gate = asyncio.Event()
    async with serve(app.api) as url:
        body = {"model": "demo", "messages": [{"role": "user", "content": [VIDEO, VIDEO]}]}
        request = asyncio.create_task(_post(url, body))
        await until(lambda: app.decoder.inside == 2)
        request.cancel()
        await until(lambda: app.decoder.cancelled == 2)
        assert app.lanes.media.running == 0
        assert app.model.calls == []


async def test_a_client_that_hangs_up_in_the_queue_leaves_it(serve: Serve) -> None:
    app = FakeApplication(media_bytes=1)
    app.fetcher.gate = asyncio.Event()
    async with serve(app.api) as url:
        body = {"model": "demo", "messages": [{"role": "user", "content": [VIDEO]}]}
        first, second = (asyncio.create_task(_post(url, body)) for _ in range(2))
        await until(lambda: app.lanes.media.waiting == 1)
        second.cancel()
        await until(lambda: app.lanes.media.waiting == 0)
        app.fetcher.gate.set()
        assert (await first).status_code == 200


async def test_a_finished_answer_counts_as_answered_although_the_client_leaves_at_once(serve: Serve) -> None:
    app = FakeApplication()
    async with serve(app.api) as url:
        for _ in range(20):
            await _post(url, {"model": "demo", "messages": MESSAGES})
    assert app.metrics.values["sluice_requests", ("/v1/chat/completions", "200")] == 20
    assert app.metrics.values["sluice_completion_tokens", ("demo",)] == 60
    assert TIMES.decode_s / 2 == pytest.approx(app.metrics.observed["sluice_itl_seconds", ("demo",)][0])


async def _post(url: str, body: object) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.post(f"{url}/v1/chat/completions", json=body)
