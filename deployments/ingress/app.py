"""The routes, and what every answer has in common: a request id, OpenAI's error shape, a metric, a line in the log.

A plain ASGI application. Knows nothing of Ray: stages, the copy into shared memory, the metrics and their page are
passed in.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from numpy.typing import NDArray
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.errors import (
    BadRequest,
    InternalError,
    NotFound,
    Overloaded,
    SluiceError,
    StageUnavailable,
    TooLarge,
    TooManyItems,
    Unauthorized,
    WorkCancelled,
    shown,
)
from deployments.ingress.admission.admission import Admission
from deployments.ingress.admission.media_budget import MediaBudget
from deployments.ingress.anthropic.messages import CountTokens, Messages
from deployments.ingress.batches.batches import Batches
from deployments.ingress.generation import Generation
from deployments.ingress.http.access_log import GONE, end_span, log_defect, log_exchange
from deployments.ingress.http.clients import Clients
from deployments.ingress.http.cors import with_cors
from deployments.ingress.http.exchange import ClientGone, Exchange, request_deadline, request_id
from deployments.ingress.http.gc_freeze import GcFreeze
from deployments.ingress.http.json_responses import error_response, http_error_response, json_response
from deployments.ingress.http.loop_lag import watch_loop_lag
from deployments.ingress.http.readiness import ASKABLE, STARTING_RETRY_AFTER_S, Look, Readiness, nothing_missing
from deployments.ingress.http.refusals import Refusals
from deployments.ingress.http.small_body import read_object
from deployments.ingress.http.waking import Wake, nothing_to_wake
from deployments.ingress.models import Models
from deployments.ingress.openai.chat_completions import ChatCompletions
from deployments.ingress.openai.completions import Completions
from deployments.ingress.openai.limits import limits_document
from deployments.ingress.openai.response_store import ResponseStore
from deployments.ingress.openai.responses import Responses
from deployments.ingress.openai.transcriptions import Transcriptions
from deployments.ingress.openapi import docs_page, openapi_document, version
from deployments.ingress.pipeline.decoded_media import DecodedMedia
from deployments.ingress.pipeline.item_loader import ItemLoader
from deployments.ingress.pipeline.pipeline import Pipeline
from deployments.ingress.playground.routes import playground_routes
from deployments.ingress.tokens import Tokenize, read_tokens
from deployments.observability.exposition import CONTENT_TYPE, Page
from deployments.observability.metrics import MetricSink
from deployments.observability.spans import NO_SPAN, NO_TRACER, Span, Tracer, within
from deployments.served_model import served_models
from deployments.stage_calls import TensorRef
from deployments.stages import Stages
from deployments.types import StageName

LIMITS_TIMEOUT_S = 5.0
QUIET_ROUTES = frozenset({"/health", "/ready", "/metrics"})
"""Asked by machines all the time: kept out of the log."""

_NEVER = re.compile(r"q=0(\.0*)?")
"""The weight of what a client does not take."""

REFUSALS = (TooLarge, TooManyItems, Unauthorized)

MetricsPage = Callable[[], Awaitable[Page]]


class Api:
    """One for an ingress replica."""

    def __init__(
        self,
        config: AppConfig,
        stages: Stages,
        put: Callable[[NDArray[Any]], TensorRef],
        metrics: MetricSink,
        metrics_page: MetricsPage,
        media_bytes: int,
        *,
        look: Look = nothing_missing,
        wake: Wake = nothing_to_wake,
        tracer: Tracer = NO_TRACER,
        set_request_id: bool = True,
    ) -> None:
        """`look`: asks which stages have no replica; `wake`: makes one start that is idle. `set_request_id`: answers
        get the header `x-request-id`; False where the server around this sets it."""
        self._config = config
        self._metrics = metrics
        self._metrics_page = metrics_page
        self._tracer = tracer
        self._set_request_id = set_request_id
        self._created_s = int(time.time())
        self.clients = Clients(config.ingress)
        decoded = DecodedMedia(config.ingress.decoded_share, metrics, per_client=config.media.cache_per_key)
        self.loader = ItemLoader(config, stages.fetcher, stages.decoder, put, decoded)
        served = served_models(config)
        self.models = Models(config)
        self.pipelines = {
            model.name: Pipeline(model.config, stages.models[model.name], self.loader) for model in served
        }
        self.admission = Admission(config.ingress, self.models.names, MediaBudget(media_bytes, decoded.fit), metrics)
        self.readiness = Readiness({model.name: model.stages for model in served}, look, wake)
        self._running = 0
        self._refusals = Refusals(metrics)
        self._settling = GcFreeze()
        self.batches = Batches.over(self, config.ingress, self.clients, self.admission, self.readiness, metrics)
        self._routes = self._build()
        router = Router(self._routes, redirect_slashes=False, lifespan=self._lifespan)
        self._router: ASGIApp = with_cors(router, config.ingress.cors_origins)
        self._paths: dict[object, str] = {route.endpoint: route.path for route in self._routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # makes the router raise `HTTPException`s instead of answering in plain text
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"].rstrip("/") or "/"
        headers = Headers(scope=scope)
        exchange = Exchange(request_id(headers), scope, send, self._set_request_id, self._span(scope, headers))
        scope["sluice.exchange"] = exchange
        self._running += 1
        try:
            with within(exchange.span):
                await self._router(scope, receive, exchange.send)
        except HTTPException as error:
            await _http_error(scope, error)(scope, receive, exchange.send)
        except SluiceError as error:
            await self._fail(exchange, error, receive)
            let_go(error)
        except Exception as error:
            log_defect(exchange, error)
            await self._fail(exchange, InternalError("an internal error occurred"), receive)
            let_go(error)
        finally:
            self._running -= 1
            self._close(exchange)

    def drain(self) -> int:
        """Take nothing new from now on; the requests that are still running."""
        self.readiness.draining = True
        return self._running

    def report(self) -> None:
        """Bring the metrics up to date; what is done each second."""
        self.admission.report()
        self._refusals.report()
        self._settling.look(self.admission.admitted)

    def _span(self, scope: Scope, headers: Headers) -> Span:
        if not scope["path"].startswith("/v1/"):
            return NO_SPAN
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        return self._tracer.begin(scope["method"], carrier, "server")

    async def _fail(self, exchange: Exchange, error: SluiceError, receive: Receive) -> None:
        exchange.facts |= {"error": error.code, "said": shown(error.message)}
        if isinstance(error, ClientGone):
            exchange.status = exchange.status or error.status
            return
        if isinstance(error, WorkCancelled):
            error = StageUnavailable("the work was cancelled before it was done")
        if isinstance(error, Overloaded | StageUnavailable):
            error.retry_after_s = error.retry_after_s or self.admission.retry_after_s(exchange.model)
        if isinstance(error, Overloaded):
            exchange.refused = True
        elif isinstance(error, REFUSALS):
            self._metrics.count("sluice_refused", reason=error.code)
        if exchange.status is None:
            await error_response(error, exchange.error_document)(exchange.scope, receive, exchange.send)

    def _close(self, exchange: Exchange) -> None:
        route = self._paths.get(exchange.scope.get("endpoint"), "other")
        end_span(exchange, route)
        if exchange.refused:
            self._refusals.add(exchange, route, Overloaded.code)
            return
        self._metrics.count("sluice_requests", route=route, status=str(exchange.status or GONE))
        self._metrics.observe("sluice_request_seconds", exchange.elapsed_s, route=route)
        if exchange.timings.seconds:
            self._settling.answered()
        for stage, seconds in exchange.timings.seconds.items():
            self._metrics.observe("sluice_stage_seconds", seconds, stage=stage)
        for stage, seconds in exchange.timings.waits.items():
            self._metrics.observe("sluice_wait_seconds", seconds, stage=stage)
        if route not in QUIET_ROUTES:
            log_exchange(exchange, route)

    def _build(self) -> list[Route]:
        config, models = self._config.ingress, self.models
        generation = Generation(config, self.pipelines, self.admission, self.clients, self._metrics, self.readiness)
        self._store = ResponseStore(config.max_stored_responses, config.max_stored_response_bytes)
        front = playground_routes() if config.playground else [Route("/", self._home, methods=["GET"])]
        return [  # looked through in this order for each request
            Route("/v1/chat/completions", generation.app(ChatCompletions(models)), methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
            *front,
            Route("/ready", self._ready, methods=["GET"]),
            Route("/metrics", self._told_metrics, methods=["GET"]),
            Route("/v1/completions", generation.app(Completions(config, models)), methods=["POST"]),
            Route("/v1/responses", generation.app(Responses(models, self._store)), methods=["POST"]),
            Route("/v1/responses/{response_id}", self._response, methods=["GET", "DELETE"]),
            Route("/v1/messages", generation.app(Messages(models)), methods=["POST"]),
            Route("/v1/messages/count_tokens", generation.app(CountTokens(models)), methods=["POST"]),
            Route("/v1/audio/transcriptions", generation.app(Transcriptions(models)), methods=["POST"]),
            *self.batches.routes,
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
            Route("/tokenize", generation.app(Tokenize(models)), methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
            Route("/version", self._version, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/docs/api", self._docs, methods=["GET"]),
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/limits", self._limits, methods=["GET"]),
            Route("/v1/models/{model:path}", self._model, methods=["GET"]),
        ]

    @asynccontextmanager
    async def _lifespan(self, app: object) -> AsyncIterator[None]:
        watching = [
            asyncio.create_task(watch_loop_lag(self._metrics, self.report)),
            asyncio.create_task(self.readiness.watch()),
            asyncio.create_task(self.batches.run()),
        ]
        yield
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        self.loader.close()

    async def _home(self, request: Request) -> Response:
        names = self.models.names
        return json_response({"name": "sluice", "model": names[0], "models": names, "api": "/v1/chat/completions"})

    async def _health(self, request: Request) -> Response:
        draining = self.readiness.draining
        return json_response({"status": "draining" if draining else "ok"}, *_unless(not draining))

    async def _ready(self, request: Request) -> Response:
        said = await self.readiness.document()
        return json_response(said, *_unless(said["status"] in ASKABLE))

    async def _told_metrics(self, request: Request) -> Response:
        page = await self._metrics_page()
        headers = {"content-type": CONTENT_TYPE, "vary": "accept-encoding"}
        if not takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(page.plain, headers=headers)
        return Response(page.gzipped, headers={**headers, "content-encoding": "gzip"})

    async def _models(self, request: Request) -> Response:
        self.clients.identify(request.scope)
        return json_response({"object": "list", "data": [self._model_card(name) for name in self.models.names]})

    async def _model(self, request: Request) -> Response:
        self.clients.identify(request.scope)
        asked = request.path_params["model"]
        self.models.named(asked)
        return json_response(self._model_card(asked))

    async def _limits(self, request: Request) -> Response:
        self.clients.identify(request.scope)
        model = self.models.named_or_only(request.query_params.get("model"))
        pipeline = self.pipelines[model]
        if not pipeline.is_known:
            await self.readiness.check_model(model)
        profile = await pipeline.profile(Deadline(LIMITS_TIMEOUT_S, StageName.PREPROCESS))
        return json_response(limits_document(self.models.named(model), profile))

    async def _response(self, request: Request) -> Response:
        self.clients.identify(request.scope)
        response_id = request.path_params["response_id"]
        kept = self._store.response(response_id)
        if kept is None:
            raise NotFound(f"the response {shown(response_id)!r} is not kept here", param="response_id")
        if request.method == "DELETE":
            self._store.forget(response_id)
            return json_response({"id": response_id, "object": "response", "deleted": True})
        return Response(kept, media_type="application/json")

    async def _detokenize(self, request: Request) -> Response:
        self.clients.identify(request.scope)
        deadline = request_deadline(request.headers, self._config.ingress)
        chunks = self.admission.bodies.chunks(request.receive, None)
        document = await read_object(request.headers, chunks, self._config.ingress.max_text_bytes)
        model, tokens = read_tokens(document, self.models)
        return json_response({"prompt": await self.pipelines[model].detokenize(tokens, deadline)})

    async def _embeddings(self, request: Request) -> Response:
        raise BadRequest("embeddings are not supported: this server answers conversations")

    async def _version(self, request: Request) -> Response:
        return json_response({"version": version()})

    async def _openapi(self, request: Request) -> Response:
        return json_response(openapi_document(self._routes))

    async def _docs(self, request: Request) -> Response:
        return docs_page(self._routes)

    def _model_card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created_s, "owned_by": "sluice"}


def _unless(fine: bool) -> tuple[int, dict[str, str]]:
    """Status and headers of a probe's answer."""
    return (200, {}) if fine else (503, {"retry-after": f"{STARTING_RETRY_AFTER_S:.0f}"})


def takes_gzip(accepted: str) -> bool:
    """Whether a header `accept-encoding` names gzip, and not to refuse it."""
    coded = (coding.replace(" ", "").lower().partition(";") for coding in accepted.split(","))
    return any(name == "gzip" and not _NEVER.fullmatch(weight) for name, _, weight in coded)


def let_go(error: BaseException | None) -> None:
    """Forget the frames that `error` came through: they hold references to media, in cycles that live long."""
    if error is None:
        return
    error.__traceback__ = None
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    cause, context = error.__cause__, error.__context__
    error.__cause__ = error.__context__ = None
    for linked in (cause, context, *inner):
        let_go(linked)


def _http_error(scope: Scope, error: HTTPException) -> Response:
    said = {404: f"there is no {shown(scope['path'])}", 405: f"{scope['method']} is not allowed here"}
    return http_error_response(error.status_code, said.get(error.status_code, error.detail), error.headers)
