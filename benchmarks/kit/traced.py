"""The application with a clock at every door: `graph.build`, whose stages note when a request comes and goes.

    import_path: benchmarks.kit.traced:build, started with SLUICE_TRACE=FILE

Each note is a line `request id, event, seconds, detail`; seconds are of the monotonic clock, which all processes of a
machine share. Nothing else is changed. A note costs about 10 microseconds; a request with one medium makes some 20.
"""

import contextlib
import functools
import json
import os
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, replace
from typing import Any

from numpy.typing import NDArray
from ray.serve import Application
from ray.serve.context import _get_serve_request_context
from starlette.types import Message, Receive, Scope, Send

import deployments.ingress.deployment as ingress_room
import graph
from deployments.config import AppConfig
from deployments.decoder.deployment import VideoDecoder
from deployments.fetcher.deployment import MediaFetcher
from deployments.ingress.app import Api
from deployments.model.deployment import Model
from deployments.preprocessor.deployment import Preprocessor
from deployments.serving.client import Stage, put
from deployments.stage_calls import Begun, StageResult, TensorRef
from deployments.types import DecodedVideo, Fetched, GenerateChunk, Prepared, StageName

TRACE_VARIABLE = "SLUICE_TRACE"


def build(args: AppConfig) -> Application:
    """What `graph.build` makes of the same stages with clocks."""
    graph.MediaFetcher = _clocked(MediaFetcher, StageName.FETCH, ("fetch",))  # type: ignore[misc]
    graph.VideoDecoder = _clocked(VideoDecoder, StageName.VIDEO_DECODE, ("decode", "decode_early", "decode_pictures"))  # type: ignore[misc]
    graph.Preprocessor = _clocked(Preprocessor, StageName.PREPROCESS, ("prepare",))  # type: ignore[misc]
    graph.Model = _clocked(Model, StageName.MODEL, ("generate",))  # type: ignore[misc]
    # The ingress is made in its replica, of what these names mean when its class is pickled here.
    ingress_room.Stage, ingress_room.put, ingress_room.Api = _Stage, _put, _Api  # type: ignore[misc,assignment]
    return graph.build(args)


def note(event: str, detail: Any = None) -> None:
    """Append one line; whole lines of several processes never mix."""
    request_id = _get_serve_request_context().request_id
    line = json.dumps([request_id, event, time.monotonic(), detail])
    os.write(_file(), line.encode() + b"\n")


@functools.cache
def _file() -> int:
    return os.open(os.environ[TRACE_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


# ── in the stages ────────────────────────────────────────────────────────────────────────────────────────────────────


def _clocked(deployment: Any, stage: StageName, methods: Sequence[str]) -> Any:
    base = deployment.func_or_class
    noting = {method: _noting(getattr(base, method), stage) for method in methods}
    return deployment.options(func_or_class=type(base.__name__, (base,), noting))


def _noting(method: Any, stage: str) -> Any:
    """The same generator: notes when it is entered, and when each value is ready, with the work that it tells of."""

    @functools.wraps(method)
    async def noting(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        note(f"{stage}.entered")
        async with contextlib.aclosing(method(*args, **kwargs)) as values:
            async for value in values:
                if isinstance(value, _TELLING):
                    note(f"{stage}.answers", _own_work(value))
                yield value

    return noting


_TELLING = (Fetched, DecodedVideo, Prepared, GenerateChunk)


def _own_work(value: Any) -> Any:
    """Seconds that the stage says it worked itself, waiting for one of its threads not included."""
    match value:
        case Fetched():
            return value.fetch_s
        case DecodedVideo():
            return value.decode_s
        case Prepared():
            return value.prepare_s
    return None if value.times is None else asdict(value.times)


# ── in the ingress ───────────────────────────────────────────────────────────────────────────────────────────────────


class _Stage(Stage):
    async def call(self, *args: Any, **options: Any) -> StageResult[Any]:
        note(f"{self._name}.sent")
        result = await super().call(*args, **options)
        note(f"{self._name}.received")
        return result

    async def begin(self, *args: Any, **options: Any) -> Begun[Any]:
        """Of a clip that is delivered whole; what comes in groups has no one waterfall."""
        note(f"{self._name}.sent")
        begun = await super().begin(*args, **options)

        async def payload() -> TensorRef:
            ref = await begun.payload()
            note(f"{self._name}.received")
            return ref

        return replace(begun, payload=payload)

    async def stream(self, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
        note(f"{self._name}.sent")
        async with contextlib.aclosing(super().stream(*args, **options)) as values:
            async for value in values:
                note(f"{self._name}.received")
                yield value


def _put(array: NDArray[Any]) -> TensorRef:
    note("put.begins", array.nbytes)
    ref = put(array)
    note("put.ends")
    return ref


class _Api(Api):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await super().__call__(scope, receive, send)
            return

        async def noting_receive() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                note("ingress.has_body")
            return message

        async def noting_send(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                note("ingress.left")
            await send(message)

        note("ingress.entered")
        await super().__call__(scope, noting_receive, noting_send)
