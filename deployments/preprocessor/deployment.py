"""The preprocessor stage: a thin shell around `Preparation`, with its threads, its time and its metrics."""

from collections.abc import AsyncGenerator

from ray import serve

from deployments.calls import ServeMetricSink, stage_method
from deployments.config import AppConfig
from deployments.deadline import Deadline
from deployments.executor import StageExecutor
from deployments.preprocessor.loading import load_checkpoint
from deployments.preprocessor.preparation import Preparation, Tensors
from deployments.types import Chat, MediaInput, MediaProfile, Payload, Prepared

STAGE = "preprocess"


@serve.deployment
class Preprocessor:
    """Text and media to token ids and tensors, by the model's own processor."""

    def __init__(self, config: AppConfig) -> None:
        self._timeout_s = config.preprocessor.timeout_s
        self._preparation = Preparation(load_checkpoint(config), config)
        self._executor = StageExecutor(STAGE, config.preprocessor.workers)
        self._metrics = ServeMetricSink()

    @stage_method
    async def profile(self, remaining_s: float) -> AsyncGenerator[MediaProfile, None]:
        """Yields what the rest of the graph must know of the model's processor."""
        yield self._preparation.profile

    @stage_method
    async def prepare(
        self, remaining_s: float, chat: Chat, inputs: tuple[MediaInput, ...], *payloads: Payload
    ) -> AsyncGenerator[Prepared | Tensors, None]:
        """Yields the metadata, then the model's tensors by name when there are any; `payloads[i]` is `inputs[i]`'s.

        Raises what `Preparation.prepare` raises.
        """
        deadline = Deadline(min(remaining_s, self._timeout_s), STAGE)
        self._metrics.gauge("sluice_threads_busy", self._executor.running + 1, stage=STAGE)
        try:
            prepared, tensors = await self._executor.run(
                deadline, self._preparation.prepare, deadline, chat, inputs, payloads
            )
        finally:
            self._metrics.gauge("sluice_threads_busy", self._executor.running, stage=STAGE)
        yield prepared
        if tensors is not None:
            self._metrics.count("sluice_prepared_bytes", sum(tensor.nbytes for tensor in tensors.values()))
            yield tensors

    def check_health(self) -> None:
        """Raises `InternalError` when a thread does not stop; Ray then replaces the replica."""
        self._executor.check_health()

    def __del__(self) -> None:
        if hasattr(self, "_executor"):
            self._executor.close()
