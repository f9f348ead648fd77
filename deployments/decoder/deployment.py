"""The decode stage as a Ray Serve deployment: builds the stage, awaits it, yields."""

from collections.abc import AsyncGenerator
from contextlib import ExitStack, closing

from ray import serve

from deployments.autoscaling import stats_of
from deployments.config import AppConfig
from deployments.decoder.stage import DecodeStage
from deployments.serving.ray_metrics import ServeMetricSink
from deployments.serving.replica import replica_tracer, stage_method
from deployments.stages import Bytes, VideoDecoderReplica
from deployments.types import DecodedVideo, Payload, VideoTask


@serve.deployment
class VideoDecoder(VideoDecoderReplica):
    """Video bytes in, `DecodedVideo` and its payload out; nothing is kept between calls."""

    def __init__(self, config: AppConfig) -> None:
        self._open = ExitStack()  # what is still to be closed: less than everything where this fails
        self.tracer = self._open.enter_context(closing(replica_tracer(config.tracing)))
        self._stage = self._open.enter_context(closing(DecodeStage(config.decoder, ServeMetricSink())))

    @stage_method
    async def decode(
        self, remaining_s: float, task: VideoTask, data: Bytes
    ) -> AsyncGenerator[DecodedVideo | Payload, None]:
        """Yields `DecodedVideo`, then its payload. `data`: a video file, uint8 (size_bytes,)."""
        read = await self._stage.decode(remaining_s, task, data)
        yield read.meta
        yield read.payload

    @stage_method
    async def decode_pictures(
        self, remaining_s: float, task: VideoTask, *pictures: Bytes
    ) -> AsyncGenerator[DecodedVideo | Payload, None]:
        """Yields `DecodedVideo`, then its payload. `pictures`: picture files in order, each uint8 (size_bytes,)."""
        read = await self._stage.decode_pictures(remaining_s, task, pictures)
        yield read.meta
        yield read.payload

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Ray where the stage is autoscaled; read by `autoscaling.by_load`."""
        return stats_of(self._stage.load())

    async def check_health(self) -> None:
        self._stage.check_health()

    def __del__(self) -> None:
        self._open.close()
