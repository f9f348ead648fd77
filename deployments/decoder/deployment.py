"""The decode stage as a Ray Serve deployment: builds the stage, awaits it, yields."""

from collections.abc import AsyncGenerator
from contextlib import ExitStack, closing
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.autoscaling import stats_of
from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.decoder.remote import Ranges
from deployments.decoder.stage import STAGE, DecodeStage
from deployments.serving.client import Stage, taken
from deployments.serving.ray_metrics import ServeMetricSink
from deployments.serving.replica import replica_tracer, stage_method
from deployments.stages import Bytes, MediaFetching, VideoDecoderReplica
from deployments.types import DecodedVideo, Payload, RemoteFile, StageName, VideoTask, WholeNeeded


class _Ranges:
    """The fetcher's door as the decoder reads through it."""

    def __init__(self, fetcher: MediaFetching) -> None:
        self._fetcher = fetcher

    async def read(self, file: RemoteFile, ranges: Ranges, deadline: Deadline) -> Bytes | None:
        limited = deadline.capped(deadline.remaining_s(), STAGE)
        result = await self._fetcher.read_ranges(limited, file, ranges, key=file.key)
        if result.meta.refused or result.payload is None:
            return None
        data: Bytes = await taken(result.payload)
        return data


@serve.deployment
class VideoDecoder(VideoDecoderReplica):
    """Video bytes in, `DecodedVideo` and its payload out; nothing is kept between calls."""

    def __init__(self, config: AppConfig, fetcher: "DeploymentHandle[Any]") -> None:
        """`fetcher`: through which files are read that stay with their hosts."""
        self._open = ExitStack()  # what is still to be closed: less than everything where this fails
        self.tracer = self._open.enter_context(closing(replica_tracer(config.tracing)))
        ranges = _Ranges(MediaFetching(Stage(fetcher, StageName.FETCH)))
        self._stage = self._open.enter_context(closing(DecodeStage(config.decoder, ServeMetricSink(), ranges)))

    @stage_method
    async def decode(
        self, remaining_s: float, task: VideoTask, data: Bytes
    ) -> AsyncGenerator[DecodedVideo | Payload, None]:
        """Yields `DecodedVideo`, then its payload. `data`: a video file, uint8 (size_bytes,)."""
        read = await self._stage.decode(remaining_s, task, data)
        yield read.meta
        yield read.payload

    @stage_method
    async def decode_remote(
        self, remaining_s: float, task: VideoTask, file: RemoteFile, head: Bytes
    ) -> AsyncGenerator[DecodedVideo | WholeNeeded | Payload, None]:
        """As `decode`, or `WholeNeeded` alone. `head`: the file's first bytes, uint8."""
        read = await self._stage.decode_remote(remaining_s, task, file, head)
        if isinstance(read, WholeNeeded):
            yield read
            return
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
