"""Stages that answer from memory, and the API around them; no Ray."""

import asyncio
import gzip
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.ingress.admission.model_lanes import ModelLanes
from deployments.ingress.app import Api
from deployments.observability.exposition import Page
from deployments.observability.metrics import RecordingSink
from deployments.observability.spans import NO_TRACER, Carrier, Tracer, current_carrier
from deployments.served_model import served_models
from deployments.stage_calls import Begun, Promise, StageResult, TensorRef
from deployments.stages import Stages
from deployments.types import (
    Chat,
    DecodedVideo,
    EncodedMedia,
    EncodeTask,
    Fetched,
    FrameSampling,
    GenerateChunk,
    GenerateTimes,
    MediaInput,
    MediaItem,
    MediaKind,
    MediaMark,
    MediaProfile,
    PlainPrompt,
    Prepared,
    SamplingParams,
    StageStates,
    TokenCounts,
    TokenDelta,
    VideoTask,
)

PROFILE = MediaProfile(
    model="demo",
    modalities=frozenset(MediaKind),
    context_length=4096,
    sampling=FrameSampling(num_frames=None, fps=2.0, max_frames=64, min_frames=4),
    resize=None,
    audio_rate_hz=16_000,
    max_audio_s=30.0,
    audio_in_video=True,
)
VIDEO = DecodedVideo(25.0, 2.0, 50, (0, 25), (0.0, 1.0), 36, 64, 0, "fake", 0, 0.001)
TIMES = GenerateTimes(0.001, 0.002, 0.003, 0.004)


@dataclass
class Call:
    method: str
    args: tuple[Any, ...]
    payloads: list[Any]
    remaining_s: float
    carrier: Carrier | None = field(default_factory=current_carrier)
    """What the call was told of the request's trace."""
    key: str | None = None


@dataclass
class FakeStage:
    """Answers by `answers[method](*args)`; may be told to fail, to wait, and counts who is inside."""

    answers: dict[str, Callable[..., tuple[Any, Any]]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    gate: asyncio.Event | None = None
    inside: int = 0
    cancelled: int = 0

    async def call(
        self,
        method: str,
        deadline: Deadline,
        *args: object,
        key: str | None = None,
        payloads: Sequence[TensorRef] = (),
        answer_has_payload: bool = True,
        also_as_refs: bool = False,
    ) -> StageResult[Any]:
        deadline.check()
        args = (*args, tuple(payloads)) if also_as_refs else args
        self.calls.append(Call(method, args, list(payloads), deadline.remaining_s(), key=key))
        self.inside += 1
        try:
            await self._wait(deadline)
            meta, payload = self.answers[method](*args)
            assert answer_has_payload or payload is None
            return StageResult(meta, payload, 0.001)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1

    async def begin(
        self,
        method: str,
        deadline: Deadline,
        *args: object,
        key: str | None = None,
        payloads: Sequence[TensorRef] = (),
    ) -> Begun[Any]:
        """The payload is made once it is waited for; answers that are errors are its own then."""
        result = await self.call(method, deadline, *args, key=key, payloads=payloads, also_as_refs=True)

        async def payload() -> Any:
            await asyncio.sleep(0)
            if isinstance(result.payload, Exception):
                raise result.payload
            return result.payload

        return Begun(result.meta, payload, self._cancel, tuple(payloads))

    async def promise(
        self, method: str, deadline: Deadline, *args: object, payloads: Sequence[TensorRef] = ()
    ) -> Promise:
        result = await self.call(method, deadline, *args, payloads=payloads, also_as_refs=True)
        assert result.payload is not None
        return Promise(result.payload, self._cancel)

    def _cancel(self) -> None:
        self.cancelled += 1

    async def _wait(self, deadline: Deadline) -> None:
        await asyncio.sleep(0)
        if self.gate is not None:
            try:
                await asyncio.wait_for(self.gate.wait(), deadline.remaining_s())
            except TimeoutError:
                deadline.check()


@dataclass
class FakeModel(FakeStage):
    """Streams `chunks`; after the first one it waits for `gate`."""

    chunks: list[GenerateChunk | Exception] = field(default_factory=list)

    async def stream(
        self,
        method: str,
        deadline: Deadline,
        *args: object,
        key: str | None = None,
        payloads: Sequence[TensorRef] = (),
        promises: Sequence[TensorRef] | None = None,
    ) -> AsyncGenerator[Any, None]:
        args = args if promises is None else (*args, list(promises))
        self.calls.append(Call(method, args, list(payloads), deadline.remaining_s(), key=key))
        self.inside += 1
        try:
            for number, chunk in enumerate(self.chunks):
                if number == 1:
                    await self._wait(deadline)
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1


def fetched(item: MediaItem) -> tuple[Fetched, object]:
    container = {MediaKind.IMAGE: "png", MediaKind.VIDEO: "mp4", MediaKind.AUDIO: "wav"}[item.kind]
    return Fetched(item.kind, container, 1000, item.url, 0.001), f"bytes of {item.label}"


def prepared(chat: Chat, media: tuple[MediaInput, ...]) -> tuple[Prepared, object]:
    kinds = [item.kind for item in media]
    tokens = {MediaKind.IMAGE: 5, MediaKind.VIDEO: 7, MediaKind.AUDIO: 3}
    counts = TokenCounts({"text": 10, **{kind.value: n * kinds.count(kind) for kind, n in tokens.items()}})
    marks = tuple(MediaMark(item.kind, item.label, item.digest) for item in media)
    told = Prepared(np.zeros(counts.total, np.int32), counts, None, False, 0.001, media=marks)
    if media and all(item.pixels_at_model for item in media):
        return replace(told, sizes={}), None
    return told, "tensors" if media else None


def encoded(task: EncodeTask) -> tuple[EncodedMedia, object]:
    labels = [mark.label for mark in task.media]
    return EncodedMedia(0.001, 100, frozenset(labels)), f"outputs from {task.first_clip}"


def continued(prompt: PlainPrompt) -> tuple[Prepared, None]:
    length = len(prompt.text) if prompt.token_ids is None else len(prompt.token_ids)
    return Prepared(np.arange(length, dtype=np.int32), TokenCounts({"text": length}), None, False, 0.001), None


def hello() -> list[GenerateChunk | Exception]:
    return [
        GenerateChunk((TokenDelta(0, "Hel", 1),)),
        GenerateChunk((TokenDelta(0, "lo", 2, finish_reason="stop"),), TIMES),
    ]


@dataclass
class FakeModelStages:
    """What one model has for itself."""

    preprocessor: FakeStage = field(
        default_factory=lambda: FakeStage(
            {"profile": lambda: (PROFILE, None), "prepare": prepared, "continue_text": continued}
        )
    )
    model: FakeModel = field(default_factory=lambda: FakeModel(chunks=hello()))
    encoder: FakeStage | None = None

    @property
    def clients(self) -> tuple[FakeStage, ...]:
        """Of all of them, in the order in which `Stages.over` takes them."""
        return (self.preprocessor, self.model, *filter(None, [self.encoder]))


class FakeApplication:
    """An `Api` over fake stages, with what they were asked."""

    def __init__(
        self,
        config: AppConfig | None = None,
        *,
        media_bytes: int = 2**30,
        tracer: Tracer = NO_TRACER,
        missing: dict[str, str | None] | None = None,
        idle: set[str] | None = None,
    ) -> None:
        """`missing`: stages without a replica, by name, and why; `idle`: those that start when they are asked. Both may
        be changed."""
        self.config = config or AppConfig()
        self.fetcher = FakeStage({"fetch": fetched})
        self.fetcher.answers["confirm"] = lambda item: (self.fetcher.answers["fetch"](item)[0], None)
        self.decoder = FakeStage(
            {
                "decode": lambda task, file: (VIDEO, f"frames of {task.label}"),
                "decode_early": lambda task, file: self.decoder.answers["decode"](task, file),
                "decode_pictures": self._pictures,
            }
        )
        self.models = {
            model.name: FakeModelStages(encoder=FakeStage({"encode": encoded}) if model.encoder else None)
            for model in served_models(self.config)
        }
        first = next(iter(self.models.values()))
        self.preprocessor, self.model, self.encoder = first.preprocessor, first.model, first.encoder
        self.metrics = RecordingSink()
        self.shared: list[bytes] = []
        own = {name: stages.clients for name, stages in self.models.items()}
        stages = Stages.over(self.fetcher, self.decoder, own)
        self.missing: dict[str, str | None] | None = {} if missing is None else missing
        """None: nobody can tell."""
        self.idle = set() if idle is None else idle
        self.awaken = asyncio.Event()
        """Set: what is idle starts when it is called."""
        self.woken: list[str] = []
        self.api = Api(
            self.config,
            stages,
            self._put,
            self.metrics,
            self._metrics_page,
            media_bytes,
            look=self._look,
            wake=self._wake,
            tracer=tracer,
        )

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://sluice", **options) as client:
            yield client

    async def chat(
        self, content: object = "hi", headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """One request whose only message holds `content`."""
        body = {"model": "demo", "messages": [{"role": "user", "content": content}], **fields}
        async with self.client() as client:
            return await client.post("/v1/chat/completions", json=body, headers=headers)

    @property
    def params(self) -> SamplingParams:
        """What the model was told last."""
        params = self.model.calls[-1].args[1]
        assert isinstance(params, SamplingParams)
        return params

    @property
    def conversation(self) -> Chat:
        """What the preprocessor was told last."""
        chat = self.preprocessor.calls[-1].args[0]
        assert isinstance(chat, Chat)
        return chat

    @property
    def video_task(self) -> VideoTask:
        task = self.decoder.calls[-1].args[0]
        assert isinstance(task, VideoTask)
        return task

    @property
    def lanes(self) -> ModelLanes:
        """Of the first model."""
        return next(iter(self.api.admission.lanes.values()))

    async def _look(self) -> StageStates:
        if self.missing is None:
            raise ConnectionError("nobody can tell")
        return StageStates(dict(self.missing), frozenset(self.idle))

    async def _wake(self, stage: str) -> None:
        self.woken.append(stage)
        await self.awaken.wait()
        self.idle.discard(stage)

    def _put(self, array: Any) -> TensorRef:
        self.shared.append(array.tobytes())
        return TensorRef(f"shared {len(self.shared) - 1}")

    @staticmethod
    def _pictures(task: VideoTask) -> tuple[Any, Any]:
        return VIDEO, f"frames of {task.label}"

    @staticmethod
    async def _metrics_page() -> Page:
        plain = b"# TYPE ray_sluice_requests counter\n"
        return Page(plain, gzip.compress(plain))
