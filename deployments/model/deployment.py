"""The model stage as a Ray Serve deployment: builds the stage, awaits it, yields. A replica has one device, or
one for each rank of tensor parallelism."""

from collections.abc import AsyncGenerator
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from ray import serve

from deployments.autoscaling import stats_of
from deployments.config import AppConfig
from deployments.serving.rank_actors import RankActors
from deployments.serving.ray_metrics import ServeMetricSink
from deployments.serving.replica import hide_gpus, replica_tracer, stage_method
from deployments.stages import ModelReplica
from deployments.types import GenerateChunk, Prepared, SamplingParams

if TYPE_CHECKING:
    from deployments.model.parallel.leader import Leader


@serve.deployment
class Model(ModelReplica):
    """Generates answers from prepared prompts."""

    def __init__(self, config: AppConfig) -> None:
        self._open = ExitStack()  # what is still to be closed: less than everything where loading fails
        # Not above: whoever builds the application's graph would wait for torch and transformers too.
        from deployments.model.stage import ModelStage

        self.tracer = self._open.enter_context(closing(replica_tracer(config.tracing)))
        self._ranks: RankActors | None = None
        leader = self._leader(config) if config.engine.tensor_parallel > 1 else None
        self._stage = self._open.enter_context(closing(ModelStage(config, ServeMetricSink(), leader)))

    @stage_method
    def generate(
        self,
        remaining_s: float,
        prepared: Prepared,
        params: SamplingParams,
        stream: bool,
        *tensors: dict[str, NDArray[Any]],
    ) -> AsyncGenerator[GenerateChunk, None]:
        """See `ModelStage.generate`. `tensors`: the processor's unless `prepared` holds them, then those of clips."""
        if prepared.sizes is not None:
            return self._stage.generate(remaining_s, prepared, params, stream, dict(prepared.sizes), tensors)
        return self._stage.generate(remaining_s, prepared, params, stream, tensors[0] if tensors else {}, tensors[1:])

    async def describe(self) -> str:
        """What this replica computes on and how much it holds, for whoever started it."""
        return self._stage.description

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Ray where the stage is autoscaled; read by `autoscaling.by_load`."""
        return stats_of(self._stage.load)

    async def check_health(self) -> None:
        """Raises when the engine's thread is dead or stuck, or a rank is, so that Ray replaces the replica as one."""
        self._stage.check_health()
        if self._ranks is not None:
            await self._ranks.check()

    def _leader(self, config: AppConfig) -> "Leader":
        """Of the further ranks, which are started."""
        from deployments.model.parallel.leader import Leader
        from deployments.model.rank import RankStage, connected, new_key

        hide_gpus()
        key = new_key()
        actors = RankActors(partial(RankStage, config, key), config.engine.tensor_parallel)
        self._ranks = self._open.enter_context(closing(actors))
        return self._open.enter_context(closing(Leader(connected(actors.addresses, key), actors.host)))

    def __del__(self) -> None:
        """Ray calls this at shutdown, after the running requests had their time."""
        self._open.close()
