"""The decode stage as a Ray Serve deployment: builds the stage, awaits it, yields."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, closing
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.autoscaling import stats_of
from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.decoder.groups import GroupRule
from deployments.decoder.parts import PART_MEGAPIXELS
from deployments.decoder.remote import Ranges
from deployments.decoder.stage import STAGE, DecodeStage
from deployments.serving.client import Stage, taken
from deployments.serving.in_process import Hosted, InProcess
from deployments.serving.ray_metrics import ServeMetricSink
from deployments.serving.replica import hide_gpus, own_deployment, replica_tracer, stage_method, stage_value
from deployments.stage_calls import TensorRef
from deployments.stages import Bytes, MediaFetching, VideoDecoderReplica, VideoDecoding
from deployments.types import (
    DecodedPart,
    DecodedVideo,
    GroupTask,
    PartReply,
    PartTask,
    Payload,
    RemoteFile,
    StageName,
    VideoTask,
    WholeNeeded,
)


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


class _Others:
    """The decoders' own door, as one of them asks the others for parts of a video."""

    def __init__(self, door: Callable[[], VideoDecoding], task: VideoTask, data: TensorRef) -> None:
        self._door, self._task, self._data = door, task, data

    async def decode(
        self, part: PartTask, deadline: Deadline, taken: Callable[[], None]
    ) -> tuple[DecodedPart, dict[str, Bytes]] | None:
        limited = deadline.capped(deadline.remaining_s(), STAGE)
        async with aclosing(self._door().decode_part(limited, self._task, part, self._data)) as answers:
            reply: Any = await anext(answers)
            if reply.taken:
                taken()
            answer: list[Any] = [value async for value in answers]  # to its end, until which a call counts as running
        return (answer[0], answer[1]) if answer else None


@serve.deployment
class VideoDecoder(VideoDecoderReplica):
    """Video bytes in, `DecodedVideo` and its payload out; nothing is kept between calls."""

    def __init__(
        self,
        config: AppConfig,
        fetcher: "DeploymentHandle[Any] | Hosted",
        part_megapixels: float = PART_MEGAPIXELS,
        groups: GroupRule | None = None,
    ) -> None:
        """`fetcher`: through which files are read that stay with their hosts. `part_megapixels` and `groups`: see
        `DecodeStage`."""
        self._open = AsyncExitStack()  # what is still to be closed: less than everything where this fails
        hide_gpus()
        self.tracer = self._open.enter_context(closing(replica_tracer(config.tracing)))
        self._door: VideoDecoding | None = None
        ranges = _Ranges(MediaFetching(self._fetching(fetcher)))
        stage = DecodeStage(config.decoder, ServeMetricSink(), ranges, part_megapixels, groups)
        self._stage = self._open.enter_context(closing(stage))

    @stage_method
    async def decode(
        self, remaining_s: float, task: VideoTask, file: tuple[TensorRef], data: Bytes
    ) -> AsyncGenerator[DecodedVideo | Payload, None]:
        """Yields `DecodedVideo`, then its payload. `data`: a video file, uint8 (size_bytes,); `file`: its reference."""
        read = await self._stage.decode(remaining_s, task, data, _Others(self._own_door, task, *file))
        yield read.meta
        yield read.payload

    @stage_method
    async def decode_early(
        self, remaining_s: float, task: VideoTask, file: tuple[TensorRef], data: Bytes
    ) -> AsyncGenerator[DecodedVideo | Payload, None]:
        """The same, its metadata as soon as they are known; see `DecodeStage.decode_early`."""
        others = _Others(self._own_door, task, *file)
        async with aclosing(self._stage.decode_early(remaining_s, task, data, others)) as values:
            async for value in values:
                yield value

    @stage_value
    async def decode_group(
        self, remaining_s: float, task: VideoTask, group: GroupTask, file: tuple[TensorRef], data: Bytes
    ) -> Payload:
        """Returns {"patches"} of a later group of what `decode_early` has begun."""
        others = _Others(self._own_door, task, *file)
        return await self._stage.decode_group(remaining_s, task, group, data, others)

    @stage_method
    async def decode_part(
        self, remaining_s: float, task: VideoTask, part: PartTask, data: Bytes
    ) -> AsyncGenerator[PartReply | DecodedPart | Payload, None]:
        """Yields `PartReply` at once and, where it is taken, `DecodedPart` and its payload."""
        with self._stage.place_for_part() as work:
            yield PartReply(work is not None)
            if work is not None:
                read = await self._stage.decode_part(remaining_s, task, part, data, work)
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

    def _fetching(self, fetcher: "DeploymentHandle[Any] | Hosted") -> Stage | InProcess:
        if not isinstance(fetcher, Hosted):
            return Stage(fetcher, StageName.FETCH)
        hosted = fetcher.start(StageName.FETCH)
        self._open.push_async_callback(hosted.close)
        return hosted

    def _own_door(self) -> VideoDecoding:
        """To all replicas of this deployment; opened for the first video that is long."""
        if self._door is None:
            self._door = VideoDecoding(Stage(own_deployment(), STAGE, retries=0))
        return self._door

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Ray where the stage is autoscaled; read by `autoscaling.by_load`."""
        return stats_of(self._stage.load())

    async def check_health(self) -> None:
        self._stage.check_health()

    async def __del__(self) -> None:
        await self._open.aclose()
