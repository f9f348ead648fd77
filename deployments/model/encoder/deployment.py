"""The encode stage as a Ray Serve deployment: builds the stage, awaits it, yields. A replica has a share of a device.

Encoder outputs travel through the object store, as all payloads do. Ray's direct transport of tensors has no part in
this: Serve's replicas can't be its ends, and where it fails it ends the processes at both.
"""

from collections.abc import AsyncGenerator
from contextlib import ExitStack, closing
from typing import Any

from numpy.typing import NDArray
from ray import serve

from deployments.autoscaling import stats_of
from deployments.config import AppConfig
from deployments.errors import ReplicaLost
from deployments.serving.ray_metrics import ServeMetricSink
from deployments.serving.replica import hide_gpus, leave, replica_tracer, stage_method
from deployments.stages import EncoderReplica
from deployments.types import EncodedMedia, EncodeTask


@serve.deployment
class Encoder(EncoderReplica):
    """Media to the rows that stand for them in prompts, by the model's own towers."""

    def __init__(self, config: AppConfig) -> None:
        self._open = ExitStack()  # what is still to be closed: less than everything where loading fails
        hide_gpus()
        # Not above: whoever builds the application's graph would wait for torch and transformers too.
        from deployments.model.encoder.stage import EncodeStage, load_towers

        self.tracer = self._open.enter_context(closing(replica_tracer(config.tracing)))
        stage = EncodeStage(load_towers(config), config, ServeMetricSink())
        self._stage = self._open.enter_context(closing(stage))
        stage.loop.start()

    @stage_method
    async def encode(
        self, remaining_s: float, task: EncodeTask, *tensors: dict[str, NDArray[Any]]
    ) -> AsyncGenerator[EncodedMedia | dict[str, NDArray[Any]], None]:
        """Yields `EncodedMedia`, then its payload; see `EncodeStage.encode`."""
        encoded, outputs = await self._stage.encode(remaining_s, task, tensors)
        yield encoded
        yield outputs

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Ray where the stage is autoscaled; read by `autoscaling.by_load`."""
        return stats_of(self._stage.load)

    async def check_health(self) -> None:
        """Raises when the towers' thread is stuck, and ends the process when it is dead: Ray replaces the replica."""
        try:
            self._stage.check_health()
        except ReplicaLost as lost:
            await leave(lost)

    def __del__(self) -> None:
        """Ray calls this at shutdown, after the running requests had their time."""
        self._open.close()
