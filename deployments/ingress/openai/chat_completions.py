"""`POST /v1/chat/completions`: from the body to the last byte of the answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import ExitStack, aclosing
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.errors import InternalError, SluiceError, StageTimeout, TooLarge
from deployments.ingress.admission.admission import Admission
from deployments.ingress.admission.lane import Lease
from deployments.ingress.http.body import Body, BodyScanner, read_body
from deployments.ingress.http.clients import Clients
from deployments.ingress.http.exchange import STAGE, ClientGone, Exchange, exchange_of, request_deadline
from deployments.ingress.http.json_responses import error_document, json_response
from deployments.ingress.http.readiness import FIRST_STAGES, Readiness
from deployments.ingress.openai import sse
from deployments.ingress.openai.chat_request import GenerationRequest, read_request
from deployments.ingress.openai.chat_response import ChatResponse
from deployments.ingress.pipeline.item_loader import Progress
from deployments.ingress.pipeline.pipeline import Pipeline, ReadyPrompt
from deployments.observability.metrics import MetricSink
from deployments.types import GenerateChunk, MediaKind, StageName


class ChatCompletions:
    """The endpoint, a plain ASGI application."""

    def __init__(
        self,
        config: AppConfig,
        pipeline: Pipeline,
        admission: Admission,
        clients: Clients,
        metrics: MetricSink,
        readiness: Readiness,
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._admission = admission
        self._clients = clients
        self._metrics = metrics
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises `SluiceError`s that come before the first byte of the answer."""
        exchange = exchange_of(scope)
        client = self._clients.identify(scope)
        headers = Headers(scope=scope)
        deadline = request_deadline(headers, self._config.ingress)
        await self._readiness.check(*FIRST_STAGES)
        with ExitStack() as held:
            declared_bytes = self._declared_bytes(headers)
            self._admission.check(client, declared_bytes, deadline)
            body_lease = await self._admission.admit_body(client, declared_bytes, deadline)
            if body_lease is not None:
                held.enter_context(body_lease)
            request = read_request(await self._read(receive, client, deadline), self._config)
            await self._readiness.check(*_media_stages(request))
            exchange.facts |= {"client": client, "stream": request.stream, "items": len(request.items)}
            await unless_gone(receive, exchange, self._answer(exchange, client, request, deadline, send, body_lease))

    def _declared_bytes(self, headers: Headers) -> int | None:
        declared = headers.get("content-length", "")
        if not declared.isdigit():
            return None
        limit = self._config.ingress.max_body_bytes
        if int(declared) > limit:
            raise TooLarge(f"the body has {declared[:20]} bytes; at most {limit} are allowed")
        return int(declared)

    async def _read(self, receive: Receive, client: str, deadline: Deadline) -> Body:
        limits = self._config.ingress
        scanner = BodyScanner(
            limits.max_body_bytes, limits.max_text_bytes, lambda: self._admission.check_media(client, deadline)
        )
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                return await read_body(_chunks(receive), scanner)
        except TimeoutError as error:
            raise StageTimeout(STAGE) from error

    async def _answer(
        self,
        exchange: Exchange,
        client: str,
        request: GenerationRequest,
        deadline: Deadline,
        send: Send,
        body_lease: Lease | None,
    ) -> None:
        plan = await self._pipeline.plan(request, deadline)
        asked_at = time.monotonic()
        with await self._admission.admit(client, plan.media_bytes, deadline) as lease:
            waited_s = time.monotonic() - asked_at
            exchange.timings.note(StageName.ADMISSION, waited_s, worked_s=0.0)
            exchange.span.phase("admission", waited_s)
            self._admission.report()
            prompt = await self._pipeline.prepare(request, plan, Progress(deadline, exchange.timings, lease))
            if body_lease is not None:
                body_lease.release()
            async with aclosing(self._pipeline.generate(request, prompt, deadline)) as chunks:
                first = await _first(chunks)
                prompt.tensors.clear()
                lease.first_token()
                answer = ChatResponse(
                    f"chatcmpl-{exchange.id}", int(time.time()), self._config.model_name, request.params.n, prompt
                )
                respond = self._stream if request.stream else self._complete
                await respond(exchange, request, answer, _chain(first, chunks), send)
            self._count(exchange, prompt, answer)

    async def _complete(
        self,
        exchange: Exchange,
        request: GenerationRequest,
        answer: ChatResponse,
        chunks: AsyncIterator[GenerateChunk],
        send: Send,
    ) -> None:
        async for chunk in chunks:
            answer.add(chunk)
        if answer.times is not None:
            exchange.timings.note_generation(answer.times)
        response = json_response(answer.completion(exchange.timings))
        await send({"type": "http.response.start", "status": 200, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _stream(
        self,
        exchange: Exchange,
        request: GenerationRequest,
        answer: ChatResponse,
        chunks: AsyncIterator[GenerateChunk],
        send: Send,
    ) -> None:
        headers = [(name.encode(), value.encode()) for name, value in sse.HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for chunk in chunks:
                answer.add(chunk)
                events = answer.delta_events(chunk, with_usage=request.include_usage)
                if events:
                    await _send_some(send, b"".join(sse.event(event) for event in events))
            if answer.times is not None:
                exchange.timings.note_generation(answer.times)
            last = sse.event(answer.usage_event(exchange.timings)) if request.include_usage else b""
        except SluiceError as error:
            exchange.facts |= {"error": error.code, "said": error.message}
            last = sse.event(error_document(error))
        await send({"type": "http.response.body", "body": last + sse.DONE})

    def _count(self, exchange: Exchange, prompt: ReadyPrompt, answer: ChatResponse) -> None:
        counts = prompt.prepared.counts
        for modality in ("text", "image", "video", "audio"):
            self._metrics.count("sluice_prompt_tokens", getattr(counts, modality), modality=modality)
        self._metrics.count("sluice_completion_tokens", answer.completion_tokens)
        exchange.facts |= {"prompt_tokens": counts.total, "completion_tokens": answer.completion_tokens}
        if answer.times is None:
            return
        decode_s = answer.times.decode_s
        self._metrics.observe("sluice_ttft_seconds", max(0.0, exchange.elapsed_s - decode_s))
        if answer.completion_tokens > 1:
            self._metrics.observe("sluice_itl_seconds", decode_s / (answer.completion_tokens - 1))


def _media_stages(request: GenerationRequest) -> list[str]:
    """What the request needs beside the stages that every request needs."""
    videos = any(item.kind is MediaKind.VIDEO for item in request.items)
    return ["MediaFetcher"] * bool(request.items) + ["VideoDecoder"] * videos


async def unless_gone(receive: Receive, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`; stop it when the client hangs up before its answer is complete, and raise `ClientGone` then."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done() or exchange.answered:
            await working
            return
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        raise ClientGone("the client has gone")
    finally:
        watching.cancel()
        working.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client has gone")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


async def _first(chunks: AsyncGenerator[GenerateChunk, None]) -> GenerateChunk:
    """Awaited before the status is sent, so that errors up to the first token have their own."""
    try:
        return await anext(chunks)
    except StopAsyncIteration:
        raise InternalError("the model stage gave no answer") from None


async def _chain(first: GenerateChunk, rest: AsyncGenerator[GenerateChunk, None]) -> AsyncIterator[GenerateChunk]:
    yield first
    async for chunk in rest:
        yield chunk


async def _send_some(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
