"""The preprocess stage without Ray: `Preparation` behind an owned thread pool, and what is measured of it.

Threads, not processes: tokenising and the work on pixels and sounds let go of the interpreter; see
`benchmarks/stages/workers.py`.
"""

from collections.abc import Sequence

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.observability.metrics import MetricSink
from deployments.preprocessor.loading import Checkpoint
from deployments.preprocessor.preparation import Preparation, Tensors
from deployments.types import Chat, MediaInput, MediaProfile, Payload, PlainPrompt, Prepared, StageName

STAGE = StageName.PREPROCESS


class PreprocessStage:
    """At most `config.preprocessor.workers` requests at once; a cancelled one keeps its thread to the next step."""

    def __init__(self, checkpoint: Checkpoint, config: AppConfig, metrics: MetricSink) -> None:
        self._timeout_s = config.preprocessor.timeout_s
        self._preparation = Preparation(checkpoint, config)
        self._executor = StageExecutor(STAGE, config.preprocessor.workers)
        self._metrics = metrics

    @property
    def profile(self) -> MediaProfile:
        return self._preparation.profile

    async def prepare(
        self, remaining_s: float, chat: Chat, inputs: tuple[MediaInput, ...], payloads: Sequence[Payload]
    ) -> tuple[Prepared, Tensors | None]:
        """Within `remaining_s`; otherwise as `Preparation.prepare`."""
        deadline = Deadline(min(remaining_s, self._timeout_s), STAGE)
        try:
            prepared, tensors = await self._executor.run(deadline, self._work, deadline, chat, inputs, payloads)
        finally:
            self._metrics.gauge("sluice_threads_busy", self._executor.running, stage=STAGE)
        self._metrics.count("sluice_prepared_bytes", sum(tensor.nbytes for tensor in (tensors or {}).values()))
        return prepared, tensors

    async def continue_text(self, remaining_s: float, prompt: PlainPrompt) -> Prepared:
        """Within `remaining_s`; otherwise as `Preparation.continue_text`."""
        deadline = Deadline(min(remaining_s, self._timeout_s), STAGE)
        return await self._executor.run(deadline, self._preparation.continue_text, deadline, prompt)

    async def detokenize(self, remaining_s: float, token_ids: tuple[int, ...]) -> str:
        """Within `remaining_s`; otherwise as `Preparation.detokenize`."""
        deadline = Deadline(min(remaining_s, self._timeout_s), STAGE)
        return await self._executor.run(deadline, self._preparation.detokenize, token_ids)

    def check_health(self) -> None:
        """Raise `InternalError` when a thread doesn't stop although it had to."""
        self._executor.check_health()

    def close(self) -> None:
        """Tell running work to stop, take no more."""
        self._executor.close()

    def _work(
        self, deadline: Deadline, chat: Chat, inputs: tuple[MediaInput, ...], payloads: Sequence[Payload]
    ) -> tuple[Prepared, Tensors | None]:
        self._metrics.gauge("sluice_threads_busy", self._executor.running, stage=STAGE)
        return self._preparation.prepare(deadline, chat, inputs, payloads)
