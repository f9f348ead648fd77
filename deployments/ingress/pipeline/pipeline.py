"""The life of a request: planned, then its items fetched and decoded side by side, then prepared, then answered.

A pipeline is one model's. Those of several models share what loads their items.

Holds metadata and references only. A reference is let go as soon as the stage that needs it has answered.
"""

import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.errors import BadRequest, InternalError, StageUnavailable
from deployments.ingress.pipeline.content_keys import Content, prompt_key
from deployments.ingress.pipeline.costs import pixel_bytes, source_bytes
from deployments.ingress.pipeline.frames import frame_sampling
from deployments.ingress.pipeline.item_loader import ItemLoader, together
from deployments.ingress.pipeline.items import ItemCacheUse, ItemTask, Progress, SourceChanged
from deployments.ingress.request import GenerationRequest, ItemPlan
from deployments.stages import ModelStages, StageResult, TensorRef
from deployments.types import (
    Chat,
    DecodedVideo,
    GenerateChunk,
    MediaInput,
    MediaKind,
    MediaProfile,
    PlainPrompt,
    Prepared,
    StageName,
    VideoTask,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a request's items, and what they are expected to hold."""

    tasks: tuple[ItemTask, ...] = ()
    media_bytes: int = 0


@dataclass(slots=True)
class ReadyPrompt:
    """What the model needs, and what was found out about the request's videos on the way."""

    prepared: Prepared
    tensors: list[TensorRef]
    """The preprocessor's, then those of clips whose pixels are not among them; empty for text alone."""
    videos: dict[str, DecodedVideo]
    """By label."""
    contents: tuple[Content, ...]
    """What the request's items hold, in their order."""
    cache: dict[str, ItemCacheUse] = field(default_factory=dict)
    """By label."""


class Pipeline:
    """Composes the stages. One for each model in an ingress replica."""

    def __init__(self, config: AppConfig, stages: ModelStages, loader: ItemLoader) -> None:
        """`config`: as of a server that has this model alone."""
        self._config = config
        self._stages = stages
        self._loader = loader
        self._profile: MediaProfile | None = None

    @property
    def is_known(self) -> bool:
        """Whether `profile` asks nobody."""
        return self._profile is not None

    async def profile(self, deadline: Deadline) -> MediaProfile:
        """What the graph must know of the model; asked once."""
        if self._profile is None:
            limited = deadline.capped(self._config.preprocessor.timeout_s, StageName.PREPROCESS)
            self._profile = await self._stages.preprocessor.profile(limited)
        return self._profile

    async def plan(self, request: GenerationRequest, deadline: Deadline) -> Plan:
        """Raises `BadRequest` for items that this model can't take and options that contradict each other."""
        if not request.items:
            return Plan()
        profile = await self.profile(deadline)
        tasks = tuple(self._task(item, request, profile) for item in request.items)
        return Plan(tasks, sum(self._bytes(task) for task in tasks))

    async def prepare(self, request: GenerationRequest, plan: Plan, progress: Progress) -> ReadyPrompt:
        """The prompt with its media. Raises the first item's `SluiceError`; work on the others is cancelled."""
        admitted_bytes = progress.lease.size_bytes
        while True:
            try:
                return await self._prepare(request, plan, progress)
            except SourceChanged:  # known by now: it is fetched like any other
                progress.reused.clear()
                progress.lease.resize(admitted_bytes)

    async def _prepare(self, request: GenerationRequest, plan: Plan, progress: Progress) -> ReadyPrompt:
        loaded = await together(self._loader.load(task, progress) for task in plan.tasks)
        at_model = _straight_to_model([item.media for item in loaded])
        inputs = tuple(replace(item.media, pixels_at_model=item.media.label in at_model) for item in loaded)
        sent = [(item.media.label in at_model, item.payload) for item in loaded if item.payload is not None]
        payloads = [ref for to_model, ref in sent if not to_model]
        clips = [ref for to_model, ref in sent if to_model]
        contents = tuple(item.content for item in loaded)
        confirming = [item.confirm() for item in loaded if item.confirm is not None]
        loaded.clear()
        sent.clear()
        (result,) = await together([self._prompt(request, inputs, payloads, progress)], beside=confirming)
        videos = {media.label: media.video for media in inputs if media.video is not None}
        tensors = [] if result.payload is None else [result.payload]
        return ReadyPrompt(result.meta, tensors + clips, videos, contents, progress.cache)

    async def _prompt(
        self, request: GenerationRequest, inputs: tuple[MediaInput, ...], payloads: list[TensorRef], progress: Progress
    ) -> StageResult[Prepared]:
        limited = progress.deadline.capped(self._config.preprocessor.timeout_s, StageName.PREPROCESS)
        if isinstance(request.prompt, PlainPrompt):
            result = await self._stages.preprocessor.continue_text(limited, request.prompt)
        else:
            result = await self._stages.preprocessor.prepare(limited, request.prompt, inputs, payloads)
        progress.timings.note(StageName.PREPROCESS, result.seconds, worked_s=result.meta.prepare_s)
        return result

    def generate(
        self, request: GenerationRequest, prompt: ReadyPrompt, deadline: Deadline, client: str
    ) -> AsyncGenerator[GenerateChunk, None]:
        """The answer as it comes. Closing the generator stops the model's work."""
        limited = deadline.capped(deadline.remaining_s(), StageName.MODEL)
        prepared = replace(prompt.prepared, reuse=request.reuse)
        if self._config.engine.prefix_cache_per_key:
            prepared = replace(prepared, cache_salt=hashlib.sha256(client.encode()).hexdigest())
        key = prompt_key(request.prompt, prompt.contents, prepared.cache_salt)
        return self._stages.model.generate(limited, prepared, request.params, request.stream, prompt.tensors, key=key)

    async def begin(
        self, request: GenerationRequest, plan: Plan, progress: Progress, prepared: Callable[[], None]
    ) -> tuple[ReadyPrompt, GenerateChunk, AsyncGenerator[GenerateChunk, None]]:
        """The prompt, the answer's first chunk, and its others. `prepared()`: the body is not needed any more.

        Where what was kept of an earlier request turns out to be lost, all of it is made again, once; unless some of
        the body has been handed on meanwhile: then it is the client who has to ask again.
        """
        admitted_bytes = progress.lease.size_bytes
        while True:
            chunks: AsyncGenerator[GenerateChunk, None] | None = None
            try:
                prompt = await self.prepare(request, plan, progress)
                if not progress.reused:
                    prepared()
                chunks = self.generate(request, prompt, progress.deadline, progress.lease.client)
                first = await _first(chunks)
            except BaseException as error:
                if chunks is not None:
                    await chunks.aclose()
                if not isinstance(error, StageUnavailable) or not self._loader.forget(progress):
                    raise
                if any(source.is_gone for task in plan.tasks for source in task.item.sources):
                    raise
                progress.lease.resize(admitted_bytes)
                continue
            for task in plan.tasks:
                for source in task.item.sources:
                    source.take()
            prepared()
            return prompt, first, chunks

    async def detokenize(self, token_ids: tuple[int, ...], deadline: Deadline) -> str:
        """The text of tokens. Raises `BadRequest` for a number that is none."""
        limited = deadline.capped(self._config.preprocessor.timeout_s, StageName.PREPROCESS)
        return await self._stages.preprocessor.detokenize(limited, token_ids)

    def _bytes(self, task: ItemTask) -> int:
        return task.pixel_bytes + sum(source_bytes(source, self._config) for source in task.item.sources)

    def _task(self, item: ItemPlan, request: GenerationRequest, profile: MediaProfile) -> ItemTask:
        if item.kind not in profile.modalities:
            raise BadRequest(f"{item.label}: this model takes no {item.kind} items", param=item.label)
        if item.kind != MediaKind.VIDEO or item.embeds or item.declared is not None:
            return ItemTask(item, None, pixel_bytes(item, None, profile.image_resize), profile.image_resize)
        assert isinstance(request.prompt, Chat), "plain prompts have no items"
        hears = request.prompt.use_audio_in_video and not item.is_list
        if hears and not profile.audio_in_video:
            raise BadRequest("this model does not listen to videos", param="use_audio_in_video")
        # A request's own pixel limits replace the rule that the profile was derived from.
        resize = profile.resize if self._config.decoder.resize and not request.prompt.processor_kwargs else None
        patches = profile.patches if resize is not None and not hears else None
        sampling = frame_sampling(item, request.frames, self._config.decoder, profile)
        rate_hz = profile.audio_rate_hz if hears else None
        video = VideoTask(item.label, sampling, resize, rate_hz, patches)
        return ItemTask(item, video, pixel_bytes(item, video, None))


async def _first(chunks: AsyncGenerator[GenerateChunk, None]) -> GenerateChunk:
    """Awaited before the status is sent, so that errors up to the first token have their own."""
    try:
        return await anext(chunks)
    except StopAsyncIteration:
        raise InternalError("the model stage gave no answer") from None


def _straight_to_model(inputs: Sequence[MediaInput]) -> frozenset[str]:
    """Labels of the clips that the model can take as they are: all of a request, since they become one tensor."""
    videos = [item for item in inputs if item.video is not None]
    whole = all(item.video is not None and item.video.patch_grid is not None for item in videos)
    return frozenset(item.label for item in videos) if whole else frozenset()
