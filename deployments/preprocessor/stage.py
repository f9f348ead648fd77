"""The preprocess stage without Ray: `Preparation` behind an owned thread pool, and what is measured of it.

Threads, not processes: tokenising and the work on pixels and sounds let go of the interpreter; see
`benchmarks/stages/workers.py`. A processor whose call is a coroutine (one that asks a service) is awaited on the
stage's event loop instead, behind the same bound, time and cancellation.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.core.priority import YIELD
from deployments.core.shared_budget import Share, SharedBudget
from deployments.errors import StageTimeout
from deployments.media.pictures import MAX_DECODE_BYTES
from deployments.observability.metrics import MetricSink
from deployments.preprocessor.loading import Checkpoint
from deployments.preprocessor.preparation import Preparation, Tensors
from deployments.types import Chat, MediaInput, MediaKind, MediaProfile, Payload, PlainPrompt, Prepared, StageName

T = TypeVar("T")

STAGE = StageName.PREPROCESS
SMALL_DECODE_BYTES = 64 * 2**20
"""Pictures that take less while they are decoded, up to seven megapixels, wait for nobody's memory."""


class PreprocessStage:
    """So many requests at once as there are workers; a cancelled one keeps its thread to the next step.

    Text has threads of its own: it never waits behind pictures. Large pictures wait for memory before they take a
    thread, so that small ones go past them.
    """

    def __init__(self, checkpoint: Checkpoint, config: AppConfig, metrics: MetricSink) -> None:
        self._timeout_s = config.preprocessor.timeout_s
        self._preparation = Preparation(checkpoint, config)
        self._executor = StageExecutor(STAGE, config.preprocessor.workers)
        self._text_executor = StageExecutor(STAGE, config.preprocessor.text_workers, yields=YIELD)
        self._memory = SharedBudget(config.preprocessor.max_decode_bytes, reserve=MAX_DECODE_BYTES)
        self._metrics = metrics

    @property
    def profile(self) -> MediaProfile:
        return self._preparation.profile

    @property
    def _busy(self) -> int:
        return self._executor.running + self._text_executor.running

    async def prepare(
        self, remaining_s: float, chat: Chat, inputs: tuple[MediaInput, ...], payloads: Sequence[Payload]
    ) -> tuple[Prepared, Tensors | None]:
        """Within `remaining_s`; otherwise as `Preparation.prepare`, the tensors among what is prepared where no pixels
        are."""
        deadline = Deadline(min(remaining_s, self._timeout_s), STAGE)
        executor = self._executor if inputs else self._text_executor
        try:
            memory = await self._memory_for(deadline, inputs, payloads)
            request, ended = (deadline, chat, inputs, payloads), memory.release
            if inputs and self._preparation.is_awaited:
                prepared, tensors = await executor.run(deadline, self._work_awaiting, *request, ended=ended)
            else:
                prepared, tensors = await executor.run(deadline, self._work, *request, ended=ended)
        finally:
            self._metrics.gauge("sluice_threads_busy", self._busy, stage=STAGE)
        self._metrics.count("sluice_prepared_bytes", sum(tensor.nbytes for tensor in (tensors or {}).values()))
        if inputs and all(item.pixels_at_model for item in inputs):
            return replace(prepared, sizes=tensors), None
        return prepared, tensors

    async def continue_text(self, remaining_s: float, prompt: PlainPrompt) -> Prepared:
        """Within `remaining_s`; otherwise as `Preparation.continue_text`."""
        deadline = Deadline(min(remaining_s, self._timeout_s), STAGE)
        return await self._text_executor.run(deadline, self._preparation.continue_text, deadline, prompt)

    async def detokenize(self, remaining_s: float, token_ids: tuple[int, ...]) -> str:
        """Within `remaining_s`; otherwise as `Preparation.detokenize`."""
        deadline = Deadline(min(remaining_s, self._timeout_s), STAGE)
        return await self._text_executor.run(deadline, self._preparation.detokenize, token_ids)

    def check_health(self) -> None:
        """Raise `InternalError` when a thread doesn't stop although it had to."""
        self._executor.check_health()
        self._text_executor.check_health()

    def close(self) -> None:
        """Tell running work to stop, take no more."""
        self._executor.close()
        self._text_executor.close()

    async def _memory_for(
        self, deadline: Deadline, inputs: tuple[MediaInput, ...], payloads: Sequence[Payload]
    ) -> Share:
        """What the largest of the pictures takes while it is decoded, once there is room for it; to be released when
        the decoding has ended, which nobody's leaving ends at once.
        """
        needed = 0
        if any(item.kind is MediaKind.IMAGE for item in inputs):
            needed = await self._executor.run(deadline, self._preparation.decode_bytes, inputs, payloads)
        share = self._memory.open()
        if needed < SMALL_DECODE_BYTES:
            share.release()
            return share
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await share.grow(needed)
        except TimeoutError:
            share.release()
            raise StageTimeout(STAGE) from None
        except BaseException:
            share.release()
            raise
        return share

    def _work(
        self, deadline: Deadline, chat: Chat, inputs: tuple[MediaInput, ...], payloads: Sequence[Payload]
    ) -> tuple[Prepared, Tensors | None]:
        self._metrics.gauge("sluice_threads_busy", self._busy, stage=STAGE)
        return self._preparation.prepare(deadline, chat, inputs, payloads)

    async def _work_awaiting(
        self, deadline: Deadline, chat: Chat, inputs: tuple[MediaInput, ...], payloads: Sequence[Payload]
    ) -> tuple[Prepared, Tensors | None]:
        """What blocks, before and after the processor's call, is done on threads."""
        begun = await self._on_thread(deadline, self._preparation.begin, deadline, chat, inputs, payloads)
        expanded = await self._preparation.expand_awaiting(begun)
        return await self._on_thread(deadline, self._preparation.finish, begun, expanded)

    async def _on_thread(self, deadline: Deadline, function: Callable[..., T], *args: object) -> T:
        """As `StageExecutor.run`; whoever is cancelled leaves when the thread holds nothing any more."""
        ended = asyncio.Event()
        try:
            return await self._executor.run(deadline, function, *args, ended=ended.set)
        finally:
            await ended.wait()
