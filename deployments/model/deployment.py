"""The model stage as a Ray Serve deployment: builds the stage, awaits it, yields. A replica has one device, or
one for each rank of tensor parallelism."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from ray import serve

from deployments.autoscaling import stats_of
from deployments.config import AppConfig
from deployments.errors import ReplicaLost
from deployments.serving.client import promised
from deployments.serving.rank_actors import RankActors
from deployments.serving.ray_metrics import ServeMetricSink
from deployments.serving.replica import hide_gpus, leave, replica_tracer, stage_method
from deployments.stage_calls import TensorRef
from deployments.stages import ModelReplica
from deployments.types import GenerateChunk, Prepared, SamplingParams

if TYPE_CHECKING:
    from deployments.model.parallel.leader import Leader
    from deployments.model.rank import RankStage

_KEY_BYTES = 32


@serve.deployment
class Model(ModelReplica):
    """Generates answers from prepared prompts."""

    def __init__(self, config: AppConfig) -> None:
        self._open = ExitStack()  # what is still to be closed: less than everything where loading fails
        self.tracer = self._open.enter_context(closing(replica_tracer(config.tracing)))
        key = secrets.token_bytes(_KEY_BYTES)
        self._ranks = self._begin_ranks(config, key) if config.engine.tensor_parallel > 1 else None
        # Not above: whoever builds the application's graph would wait for torch and transformers too.
        from deployments.model.stage import ModelStage

        leader = None if self._ranks is None else self._leader(self._ranks, key)
        self._stage = self._open.enter_context(closing(ModelStage(config, ServeMetricSink(), leader)))

    @stage_method
    def generate(
        self,
        remaining_s: float,
        prepared: Prepared,
        params: SamplingParams,
        stream: bool,
        later: list[TensorRef],
        *tensors: dict[str, NDArray[Any]],
    ) -> AsyncGenerator[GenerateChunk, None]:
        """See `ModelStage.generate`. `tensors`: the processor's unless `prepared` holds them, then those of clips.
        `later`: promises of more of these."""
        coming = promised(later) if later else None
        if prepared.sizes is not None:
            return self._stage.generate(remaining_s, prepared, params, stream, dict(prepared.sizes), tensors, coming)
        own = tensors[0] if tensors else {}
        return self._stage.generate(remaining_s, prepared, params, stream, own, tensors[1:], coming)

    async def describe(self) -> str:
        """What this replica computes on and how much it holds, for whoever started it."""
        return self._stage.description

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Ray where the stage is autoscaled; read by `autoscaling.by_load`."""
        return stats_of(self._stage.load)

    async def check_health(self) -> None:
        """Raises when the engine's thread or a rank is stuck, and ends the process when one is dead: Ray replaces the
        replica as one."""
        try:
            self._stage.check_health()
            if self._ranks is not None:
                await self._ranks.check()
        except ReplicaLost as lost:
            await leave(lost)

    def _begin_ranks(self, config: AppConfig, key: bytes) -> RankActors:
        """Before all else: they import what they need while this process does."""
        hide_gpus()
        return self._open.enter_context(closing(RankActors(partial(_rank, config, key), config.engine.tensor_parallel)))

    def _leader(self, ranks: RankActors, key: bytes) -> "Leader":
        from deployments.model.parallel.leader import Leader
        from deployments.model.rank import connected

        return self._open.enter_context(closing(Leader(connected(ranks.addresses(), key), ranks.host)))

    def __del__(self) -> None:
        """Ray calls this at shutdown, after the running requests had their time."""
        self._open.close()


def _rank(config: AppConfig, key: bytes, host: str) -> "RankStage":
    """A further rank's work, in its own process, which alone waits for torch and transformers."""
    from deployments.model.rank import RankStage

    return RankStage(config, key, host)
