"""The life of a request to generate, whatever API it came by: from its first byte to the last one of the answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.config import IngressConfig
from deployments.core.deadline import Deadline
from deployments.core.shared_budget import Share
from deployments.errors import SluiceError, StageTimeout
from deployments.ingress.admission.admission import Admission
from deployments.ingress.admission.lease import Lease
from deployments.ingress.endpoint import CountingEndpoint, Endpoint, Writer
from deployments.ingress.http import form
from deployments.ingress.http.body import Body, BodyScanner, check_type, read_body
from deployments.ingress.http.clients import Clients
from deployments.ingress.http.exchange import STAGE, ClientGone, Exchange, exchange_of, request_deadline, wants_reuse
from deployments.ingress.http.readiness import Readiness
from deployments.ingress.http.small_body import check_length
from deployments.ingress.http.timing import Timings
from deployments.ingress.http.upload import next_message
from deployments.ingress.openai import sse
from deployments.ingress.output.answer import Answer
from deployments.ingress.pipeline.items import Progress
from deployments.ingress.pipeline.pipeline import Pipeline, ReadyPrompt
from deployments.ingress.pipeline.side_by_side import together
from deployments.ingress.request import GenerationRequest
from deployments.ingress.tools.settle import settled
from deployments.observability.metrics import MetricSink
from deployments.served_model import DECODER, FETCHER
from deployments.types import MODALITIES, GenerateChunk, MediaKind, StageName


@dataclass(frozen=True, slots=True)
class Asked:
    """A body that has been read, and what goes with it until it is answered."""

    exchange: Exchange
    client: str
    deadline: Deadline
    requests: list[GenerationRequest]
    body_lease: Share


class Generation:
    """Joins admission, pipeline and endpoints. One for an ingress replica."""

    def __init__(
        self,
        config: IngressConfig,
        pipelines: Mapping[str, Pipeline],
        admission: Admission,
        clients: Clients,
        metrics: MetricSink,
        readiness: Readiness,
    ) -> None:
        """`pipelines`: by the names of the models."""
        self._config = config
        self._pipelines = pipelines
        self._admission = admission
        self._clients = clients
        self._metrics = metrics
        self._readiness = readiness

    def app(self, endpoint: Endpoint | CountingEndpoint) -> ASGIApp:
        """The endpoint as an ASGI application. It raises `SluiceError`s that come before the answer's first byte."""
        return _EndpointApp(self, endpoint)

    async def serve(self, endpoint: Endpoint | CountingEndpoint, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        exchange.error_document = endpoint.error_document
        client = self._clients.identify(scope)
        headers = Headers(scope=scope)
        check_type(headers, endpoint.body_type)
        deadline = request_deadline(headers, self._config)
        reuse = wants_reuse(headers)
        await self._readiness.check_any()
        with ExitStack() as held:
            declared_bytes = check_length(headers, self._config.max_body_bytes)
            if not exchange.background:
                self._admission.check(client, declared_bytes, deadline)
            body_lease = held.enter_context(self._admission.bodies.open(client))
            check = None if exchange.background else partial(self._admission.check_media, client, deadline)
            requests = endpoint.read(await self._read(receive, headers, body_lease, check, deadline))
            if not reuse:
                requests = [replace(request, reuse=False) for request in requests]
            exchange.model = requests[0].model  # an API that takes several prompts at once has one model for them
            await self._readiness.check_model(exchange.model)
            await self._readiness.check(_media_stages(requests))
            items = sum(len(request.items) for request in requests)
            exchange.facts |= {"client": client, "stream": requests[0].stream, "items": items}
            asked = Asked(exchange, client, deadline, requests, body_lease)
            await unless_gone(receive, exchange, self._answer(endpoint, asked, send))

    async def _read(
        self,
        receive: Receive,
        headers: Headers,
        lease: Share,
        on_media: Callable[[], None] | None,
        deadline: Deadline,
    ) -> Body:
        limits = self._config
        chunks = self._admission.bodies.chunks(receive, lease)
        boundary = form.boundary_of(headers.get("content-type", ""))
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                if boundary is not None:
                    return await form.read_form(chunks, boundary, limits.max_body_bytes)
                scanner = BodyScanner(limits.max_body_bytes, limits.max_text_bytes, on_media)
                return await read_body(chunks, scanner)
        except TimeoutError as error:
            raise StageTimeout(STAGE) from error

    async def _answer(self, endpoint: Endpoint | CountingEndpoint, asked: Asked, send: Send) -> None:
        if not isinstance(endpoint, Endpoint):
            await self._count_tokens(endpoint, asked, send)
            return
        if len(asked.requests) == 1:
            await self._answer_one(endpoint, asked, asked.requests[0], send)
            return
        answers = await together(self._answer_one(endpoint, asked, request, None) for request in asked.requests)
        writer = endpoint.writer(asked.requests, answers, asked.exchange.id)
        await _complete(asked.exchange, asked.requests, writer, send)

    async def _count_tokens(self, endpoint: CountingEndpoint, asked: Asked, send: Send) -> None:
        (request,) = asked.requests
        pipeline = self._pipelines[request.model]
        profile = await pipeline.profile(asked.deadline)
        request = settled(request, profile)
        plan = await pipeline.plan(request, asked.deadline)
        with (
            await self._admission.admit(request.model, asked.client, plan.media_bytes, asked.deadline) as lease,
            _accounting(lease, asked.exchange.timings),
        ):
            prompt = await pipeline.prepare(
                request, plan, Progress(asked.deadline, asked.exchange.timings, lease, request.reuse)
            )
            prompt.tensors.clear()
            response = endpoint.respond(asked.requests, prompt, profile)
        await _send_whole(response, send)

    async def _answer_one(
        self, endpoint: Endpoint, asked: Asked, request: GenerationRequest, send: Send | None
    ) -> Answer:
        """Answer one request; without `send` it is not worded yet."""
        exchange, deadline, pipeline = asked.exchange, asked.deadline, self._pipelines[request.model]
        if request.tool_use is not None:
            request = settled(request, await pipeline.profile(deadline))
        plan = await pipeline.plan(request, deadline)
        asked_at = time.monotonic()
        with (
            await self._admission.admit(
                request.model, asked.client, plan.media_bytes, deadline, background=exchange.background
            ) as lease,
            _accounting(lease, exchange.timings, request.params.n),
        ):
            waited_s = time.monotonic() - asked_at
            exchange.timings.note(StageName.ADMISSION, waited_s, worked_s=0.0)
            exchange.span.phase("admission", waited_s)
            self._admission.report()
            progress = Progress(deadline, exchange.timings, lease, request.reuse)
            tool_format = (await pipeline.profile(deadline)).tool_format if request.tool_use else None
            prompt, first, rest = await pipeline.begin(request, plan, progress, asked.body_lease.release)
            answer = Answer(request, prompt, tool_format)
            async with aclosing(rest) as chunks:
                prompt.tensors.clear()
                prompt.later = ()
                lease.first_token()
                writer = endpoint.writer([request], [answer], exchange.id) if send is not None else None
                if send is not None and writer is not None and request.stream:
                    await _stream(exchange, answer, writer, _chain(first, chunks), send)
                else:
                    await _gather(exchange, answer, _chain(first, chunks))
                    if send is not None and writer is not None:
                        await _complete(exchange, [request], writer, send)
            self._count(exchange, request.model, prompt, answer)
        return answer

    def _count(self, exchange: Exchange, model: str, prompt: ReadyPrompt, answer: Answer) -> None:
        counts = prompt.prepared.counts
        for modality in MODALITIES:
            self._metrics.count("sluice_prompt_tokens", counts[modality], modality=modality, model=model)
        self._metrics.count("sluice_completion_tokens", answer.completion_tokens, model=model)
        exchange.facts |= {"prompt_tokens": counts.total, "completion_tokens": answer.completion_tokens}
        if answer.times is None or exchange.background:
            return
        decode_s = answer.times.decode_s
        self._metrics.observe("sluice_ttft_seconds", max(0.0, exchange.elapsed_s - decode_s), model=model)
        if answer.completion_tokens > 1:
            self._metrics.observe("sluice_itl_seconds", decode_s / (answer.completion_tokens - 1), model=model)


class _EndpointApp:
    """A class, since the router takes a function for an endpoint of its own kind."""

    def __init__(self, generation: Generation, endpoint: Endpoint | CountingEndpoint) -> None:
        self._generation = generation
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._generation.serve(self._endpoint, scope, receive, send)


@contextmanager
def _accounting(lease: Lease, timings: Timings, answers: int = 1) -> Iterator[None]:
    """What a request takes, as it will be charged to its client."""
    lease.answers = answers
    try:
        yield
    finally:
        lease.waited_s = timings.waited_inside_s


async def _gather(exchange: Exchange, answer: Answer, chunks: AsyncIterator[GenerateChunk]) -> None:
    async for chunk in chunks:
        answer.add(chunk)
    if answer.times is not None:
        exchange.timings.note_generation(answer.times)


async def _complete(exchange: Exchange, requests: Sequence[GenerationRequest], writer: Writer, send: Send) -> None:
    if any(request.params.logprobs is not None for request in requests):
        response = await asyncio.to_thread(writer.whole, exchange.timings)  # megabytes to be worded
    else:
        response = writer.whole(exchange.timings)
    await _send_whole(response, send)


async def _send_whole(response: Response, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body})


async def _stream(
    exchange: Exchange, answer: Answer, writer: Writer, chunks: AsyncIterator[GenerateChunk], send: Send
) -> None:
    headers = [(name.encode(), value.encode()) for name, value in sse.HEADERS.items()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    said = writer.opening()
    try:
        async for chunk in chunks:
            said += writer.pieces(answer.add(chunk))
            if said:
                await send({"type": "http.response.body", "body": said, "more_body": True})
                said = b""
        if answer.times is not None:
            exchange.timings.note_generation(answer.times)
        last = writer.closing(exchange.timings)
    except SluiceError as error:
        exchange.facts |= {"error": error.code, "said": error.message}
        last = writer.failure(error)
    await send({"type": "http.response.body", "body": said + last})


def _media_stages(requests: Sequence[GenerationRequest]) -> list[str]:
    """What is needed beside the stages that every request needs."""
    kinds = {item.kind for request in requests for item in request.items}
    return [FETCHER] * bool(kinds) + [DECODER] * (MediaKind.VIDEO in kinds)


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
    try:
        while (await next_message(receive))["type"] != "http.disconnect":
            pass
    except ClientGone:
        return


async def _chain(first: GenerateChunk, rest: AsyncGenerator[GenerateChunk, None]) -> AsyncIterator[GenerateChunk]:
    yield first
    async for chunk in rest:
        yield chunk
