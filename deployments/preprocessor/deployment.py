"""The preprocess stage as a Ray Serve deployment: builds the stage, awaits it, yields."""

from collections.abc import AsyncGenerator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from ray import serve

from deployments.config import AppConfig
from deployments.serving.ray_metrics import ServeMetricSink
from deployments.serving.replica import hide_gpus, replica_tracer, stage_method
from deployments.stages import PreprocessorReplica
from deployments.types import Chat, MediaInput, MediaProfile, Payload, PlainPrompt, Prepared

if TYPE_CHECKING:
    from deployments.preprocessor.preparation import Tensors


@serve.deployment
class Preprocessor(PreprocessorReplica):
    """Text and media to token ids and tensors, by the model's own processor."""

    def __init__(self, config: AppConfig) -> None:
        self._open = ExitStack()  # what is still to be closed: less than everything where loading fails
        hide_gpus()
        # Not above: whoever builds the application's graph would wait for torch and transformers too.
        from deployments.preprocessor.loading import load_checkpoint
        from deployments.preprocessor.stage import PreprocessStage

        self.tracer = self._open.enter_context(closing(replica_tracer(config.tracing)))
        stage = PreprocessStage(load_checkpoint(config), config, ServeMetricSink())
        self._stage = self._open.enter_context(closing(stage))

    @stage_method
    async def profile(self, remaining_s: float) -> AsyncGenerator[MediaProfile, None]:
        """Yields what the rest of the graph must know of the model's processor."""
        yield self._stage.profile

    @stage_method
    async def prepare(
        self, remaining_s: float, chat: Chat, inputs: tuple[MediaInput, ...], *payloads: Payload
    ) -> AsyncGenerator["Prepared | Tensors", None]:
        """Yields `Prepared`, then the model's tensors by name when there are any; see `Preparation.prepare`."""
        prepared, tensors = await self._stage.prepare(remaining_s, chat, inputs, payloads)
        yield prepared
        if tensors is not None:
            yield tensors

    @stage_method
    async def continue_text(self, remaining_s: float, prompt: PlainPrompt) -> AsyncGenerator[Prepared, None]:
        """Yields `Prepared`; see `Preparation.continue_text`."""
        yield await self._stage.continue_text(remaining_s, prompt)

    @stage_method
    async def detokenize(self, remaining_s: float, token_ids: tuple[int, ...]) -> AsyncGenerator[str, None]:
        """Yields the text of tokens."""
        yield await self._stage.detokenize(remaining_s, token_ids)

    async def check_health(self) -> None:
        self._stage.check_health()

    def __del__(self) -> None:
        self._open.close()
