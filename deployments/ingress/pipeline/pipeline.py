"""The life of a request: planned, then its items fetched and decoded side by side, then prepared, perhaps encoded, and
answered.

A pipeline is one model's. Those of several models share what loads their items.

Holds metadata and references only. A reference is let go as soon as the stage that needs it has answered.
"""

import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from deployments.config import AppConfig, EncoderConfig
from deployments.core.deadline import Deadline
from deployments.errors import BadRequest, InternalError, PixelsWanted, StageUnavailable
from deployments.ingress.pipeline.content_keys import Content, prompt_key
from deployments.ingress.pipeline.costs import pixel_bytes, source_bytes
from deployments.ingress.pipeline.encoding import EncodeStep
from deployments.ingress.pipeline.frames import frame_sampling
from deployments.ingress.pipeline.item_loader import ItemLoader
from deployments.ingress.pipeline.items import ItemCacheUse, ItemTask, LoadedItem, Progress, SourceChanged
from deployments.ingress.pipeline.overlap import Coming
from deployments.ingress.pipeline.side_by_side import beside, together
from deployments.ingress.request import GenerationRequest, ItemPlan
from deployments.stage_calls import StageResult, TensorRef
from deployments.stages import ModelStages
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

T = TypeVar("T")


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
    named_clips: tuple[tuple[int, int], ...] = ()
    """See `Prepared.named_clips`: of media that were all there already."""
    later: tuple[TensorRef, ...] = ()
    """In place of clips: groups of one, promised."""
    encoded: frozenset[str] = frozenset()
    """Labels of the items that an encoder's towers had to look at."""


Chunks = AsyncGenerator[GenerateChunk, None]
BegunAnswer = tuple[ReadyPrompt, GenerateChunk, Chunks]


class Pipeline:
    """Composes the stages. One for each model in an ingress replica."""

    def __init__(self, config: AppConfig, stages: ModelStages, loader: ItemLoader) -> None:
        """`config`: as of a server that has this model alone."""
        self._config = config
        self._stages = stages
        self._loader = loader
        remembers = bool(config.engine.prefix_cache or config.engine.reuse_cache_mib)
        self._model_remembers = remembers and stages.encoder is None  # whose outputs the model knows, not their pixels
        self._profile: MediaProfile | None = None
        self._encode: EncodeStep | None = None
        if stages.encoder is not None:
            self._encode = EncodeStep(config.encoder or EncoderConfig(), stages.encoder)

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

        async def once() -> ReadyPrompt:
            loaded = await together(self._loader.load(task, progress) for task in plan.tasks)
            async with beside(_confirming(loaded)):
                return await self._prepare(request, loaded, progress)

        return await _unchanged(progress, once)

    async def _prepare(self, request: GenerationRequest, loaded: list[LoadedItem], progress: Progress) -> ReadyPrompt:
        """`loaded` is emptied."""
        if progress.overlap.began is None:
            progress.overlap.release_files()
        at_model = _straight_to_model([item.media for item in loaded])
        inputs = tuple(replace(item.media, pixels_at_model=item.media.label in at_model) for item in loaded)
        sent = [(item.media.label in at_model, ref) for item in loaded for ref in item.payloads]
        payloads = [ref for to_model, ref in sent if not to_model]
        clips = [ref for to_model, ref in sent if to_model]
        contents = tuple(item.content for item in loaded)
        all_kept = all(item.is_kept for item in loaded)
        coming = [item.coming for item in loaded if item.coming is not None]
        loaded.clear()
        sent.clear()
        prompting = self._prompt(request, inputs, payloads, progress)
        result = await (_arrived(prompting, coming) if coming else prompting)
        videos = {media.label: media.video for media in inputs if media.video is not None}
        tensors = [] if result.payload is None else [result.payload]
        prepared = replace(result.meta, reuse=request.reuse)
        if self._config.engine.prefix_cache_per_key:
            prepared = replace(prepared, cache_salt=hashlib.sha256(progress.lease.client.encode()).hexdigest())
        ready = ReadyPrompt(prepared, tensors + clips, videos, contents, progress.cache)
        ready.later = tuple(ref for clip in coming for ref in clip.groups)
        if all_kept and clips and self._model_remembers and _all_named(prepared):
            ready.named_clips = tuple(video.patches_shape for video in videos.values())
        return ready

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

    async def _encoded(self, plan: Plan, prompt: ReadyPrompt, progress: Progress) -> ReadyPrompt:
        """The prompt with encoder outputs in place of pixels, where an encoder makes them."""
        if self._encode is None or not any(task.needs_encoding for task in plan.tasks):
            return prompt
        tensors, encoded = await self._encode.encode(prompt.prepared, prompt.tensors, prompt.contents, progress)
        return replace(prompt, tensors=tensors, encoded=encoded)

    async def begin(
        self, request: GenerationRequest, plan: Plan, progress: Progress, prepared: Callable[[], None]
    ) -> BegunAnswer:
        """The prompt, the answer's first chunk, and its others. `prepared()`: the body is not needed any more.

        Where what was kept of an earlier request turns out to be lost, all of it is made again, once; unless some of
        the body has been handed on meanwhile: then it is the client who has to ask again. Where a group of a clip is
        lost, it is decoded whole, once.
        """
        overlap = progress.overlap
        lone = sum(task.video is not None for task in plan.tasks) == 1
        overlap.is_allowed = self._config.decoder.overlap and lone and self._encode is None
        admitted_bytes = progress.lease.size_bytes
        while True:
            try:
                begun = await _unchanged(progress, partial(self._begin, request, plan, progress, prepared))
            except BaseException as error:
                came_apart, lost = overlap.take_back(), isinstance(error, StageUnavailable)
                if not lost or not (self._loader.forget(progress) or came_apart):
                    raise
                if not came_apart and any(source.is_gone for task in plan.tasks for source in task.item.sources):
                    raise
                progress.lease.resize(admitted_bytes)
                continue
            overlap.settle(came=begun[1].media_s is not None)
            for task in plan.tasks:
                for source in task.item.sources:
                    source.take()
            prepared()
            return begun

    async def _begin(
        self, request: GenerationRequest, plan: Plan, progress: Progress, prepared: Callable[[], None]
    ) -> BegunAnswer:
        """The model begins while hosts are still asked whether they have what it is shown; nothing is said before."""
        loaded = await together(self._loader.load(task, progress) for task in plan.tasks)
        async with beside(_confirming(loaded)) as confirmed:
            prompt = await self._prepare(request, loaded, progress)
            if not progress.reused:
                prepared()
            prompt = await self._encoded(plan, prompt, progress)
            asked = time.monotonic()
            first, chunks = await self._answer(request, prompt, progress)
            try:
                await confirmed()
            except BaseException:
                await chunks.aclose()
                raise
        if progress.overlap.began is not None and first.media_s is not None:
            progress.timings.note(StageName.VIDEO_DECODE, asked - progress.overlap.began + first.media_s)
        return prompt, first, chunks

    async def _answer(
        self, request: GenerationRequest, prompt: ReadyPrompt, progress: Progress
    ) -> tuple[GenerateChunk, Chunks]:
        """Its beginning, and the rest. Clips that the model may know are sent when it asks for them."""
        limited = progress.deadline.capped(progress.deadline.remaining_s(), StageName.MODEL)
        prepared = prompt.prepared
        key = prompt_key(request.prompt, prompt.contents, prepared.cache_salt)
        generate = partial(self._stages.model.generate, limited, params=request.params, stream=request.stream, key=key)
        if prompt.named_clips:
            with contextlib.suppress(PixelsWanted):
                return await _begun(generate(prepared=replace(prepared, named_clips=prompt.named_clips), tensors=[]))
        return await _begun(generate(prepared=prepared, tensors=prompt.tensors, later=prompt.later))

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


async def _unchanged(progress: Progress, work: Callable[[], Awaitable[T]]) -> T:
    """What comes of `work`, which is done again where a source has changed: by then that is known, and it is fetched
    like any other."""
    admitted_bytes = progress.lease.size_bytes
    while True:
        try:
            return await work()
        except SourceChanged:
            progress.reused.clear()
            progress.lease.resize(admitted_bytes)


async def _arrived(work: Awaitable[T], coming: Sequence[Coming]) -> T:
    """What comes of `work`, once the first groups of clips are there as well."""
    async with beside(clip.arrive() for clip in coming):
        return await work


def _confirming(loaded: Sequence[LoadedItem]) -> list[Coroutine[Any, Any, None]]:
    return [item.confirm() for item in loaded if item.confirm is not None]


async def _begun(chunks: Chunks) -> tuple[GenerateChunk, Chunks]:
    """The first one and the others. Awaited before the status is sent, so that errors up to the first token have their
    own."""
    try:
        return await anext(chunks), chunks
    except StopAsyncIteration:
        raise InternalError("the model stage gave no answer") from None
    except BaseException:
        await chunks.aclose()
        raise


def _all_named(prepared: Prepared) -> bool:
    """Whether the model can tell all of a prompt's media by their names, and none has tensors of its own."""
    return prepared.sizes is not None and bool(prepared.media) and all(mark.digest for mark in prepared.media)


def _straight_to_model(inputs: Sequence[MediaInput]) -> frozenset[str]:
    """Labels of the clips that the model can take as they are: all of a request, since they become one tensor."""
    videos = [item for item in inputs if item.video is not None]
    whole = all(item.video is not None and item.video.patch_grid is not None for item in videos)
    return frozenset(item.label for item in videos) if whole else frozenset()
