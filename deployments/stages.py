"""The doors between processes: what each stage is asked, what it answers, on both sides of the call.

A stage has two sides here. Its callers hold a door (`MediaFetching`, `VideoDecoding`, ...): typed methods over a
`StageClient`, which carries a call by the method's name; Ray's client and the tests' fakes are such clients. Its
replicas keep to a protocol (`MediaFetcherReplica`, ...): a deployment whose parameters are not the door's is a type
error. What a call is named and in which order its arguments go stands in the door's method, below the replica's. A
method's `key` names what the replica will have seen when it is asked again (`ingress.pipeline.content_keys`).
"""

from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.stage_calls import Begun, Promise, PromisingClient, StageClient, StageResult, TensorRef
from deployments.types import (
    Chat,
    DecodedPart,
    DecodedVideo,
    EncodedMedia,
    EncodeTask,
    Fetched,
    GenerateChunk,
    GroupTask,
    MediaInput,
    MediaItem,
    MediaProfile,
    PartReply,
    PartTask,
    Payload,
    PlainPrompt,
    Prepared,
    RangesRead,
    RemoteFile,
    SamplingParams,
    VideoTask,
    WholeNeeded,
)

Bytes = NDArray[np.uint8]
Tensors = dict[str, NDArray[Any]]


class _Door:
    def __init__(self, client: StageClient) -> None:
        self._client = client


class MediaFetcherReplica(Protocol):
    def fetch(
        self, remaining_s: float, item: MediaItem, data_url: Bytes | None = None
    ) -> AsyncGenerator[Fetched | Bytes, None]: ...

    def confirm(self, remaining_s: float, item: MediaItem) -> AsyncGenerator[Fetched, None]: ...

    def read_ranges(
        self, remaining_s: float, file: RemoteFile, ranges: tuple[tuple[int, int], ...]
    ) -> AsyncGenerator[RangesRead | Bytes, None]: ...


class MediaFetching(_Door):
    async def fetch(
        self, deadline: Deadline, item: MediaItem, data_url: TensorRef | None, *, key: str
    ) -> StageResult[Fetched]:
        """The item's bytes, uint8 (size_bytes,). `data_url`: the text of a `data:` URL, which has no other."""
        payloads = () if data_url is None else (data_url,)
        return await self._client.call("fetch", deadline, item, key=key, payloads=payloads)

    async def confirm(self, deadline: Deadline, item: MediaItem, *, key: str) -> StageResult[Fetched]:
        """What is at the item's URL now, and none of its bytes. Costs little where the fetcher keeps what it had."""
        return await self._client.call("confirm", deadline, item, key=key, answer_has_payload=False)

    async def read_ranges(
        self, deadline: Deadline, file: RemoteFile, ranges: tuple[tuple[int, int], ...], *, key: str
    ) -> StageResult[RangesRead]:
        """Bytes `start` to `stop` (exclusive) of a remote file for each range, one after the other."""
        return await self._client.call("read_ranges", deadline, file, ranges, key=key)


class VideoDecoderReplica(Protocol):
    def decode(
        self, remaining_s: float, task: VideoTask, file: tuple[TensorRef], data: Bytes
    ) -> AsyncGenerator[DecodedVideo | Payload, None]: ...

    def decode_early(
        self, remaining_s: float, task: VideoTask, file: tuple[TensorRef], data: Bytes
    ) -> AsyncGenerator[DecodedVideo | Payload, None]: ...

    def decode_group(
        self, remaining_s: float, task: VideoTask, group: GroupTask, file: tuple[TensorRef], data: Bytes
    ) -> Coroutine[Any, Any, Payload]: ...

    def decode_part(
        self, remaining_s: float, task: VideoTask, part: PartTask, data: Bytes
    ) -> AsyncGenerator[PartReply | DecodedPart | Payload, None]: ...

    def decode_remote(
        self, remaining_s: float, task: VideoTask, file: RemoteFile, head: Bytes
    ) -> AsyncGenerator[DecodedVideo | WholeNeeded | Payload, None]: ...

    def decode_pictures(
        self, remaining_s: float, task: VideoTask, *pictures: Bytes
    ) -> AsyncGenerator[DecodedVideo | Payload, None]: ...


class VideoDecoding(_Door):
    def __init__(self, client: PromisingClient) -> None:
        super().__init__(client)
        self._promising = client

    async def decode(
        self, deadline: Deadline, task: VideoTask, data: TensorRef, *, key: str
    ) -> StageResult[DecodedVideo]:
        """Frames of a video file; its payload is told at `DecodedVideo`. The file goes as its bytes, and inside a tuple
        as the reference that it is, for other decoders which may take a part of it."""
        return await self._client.call("decode", deadline, task, key=key, payloads=(data,), also_as_refs=True)

    async def decode_early(
        self, deadline: Deadline, task: VideoTask, data: TensorRef, *, key: str
    ) -> Begun[DecodedVideo]:
        """The same; of a long video its first group alone (`DecodedVideo.later`), and all that it will be before."""
        return await self._promising.begin("decode_early", deadline, task, key=key, payloads=(data,))

    async def decode_group(self, deadline: Deadline, task: VideoTask, group: GroupTask, data: TensorRef) -> Promise:
        """A later group of it. Any decoder will do."""
        return await self._promising.promise("decode_group", deadline, task, group, payloads=(data,))

    def decode_part(
        self, deadline: Deadline, task: VideoTask, part: PartTask, data: TensorRef
    ) -> AsyncGenerator[PartReply | DecodedPart | Payload, None]:
        """A `PartReply`, and if the part is taken a `DecodedPart` and its frames. Any decoder but the caller's may be
        asked: those that have nothing to do first."""
        return self._client.stream("decode_part", deadline, task, part, payloads=(data,))

    async def decode_remote(
        self, deadline: Deadline, task: VideoTask, file: RemoteFile, head: TensorRef, *, key: str
    ) -> StageResult[DecodedVideo | WholeNeeded]:
        """The same of a file that stays with its host; `head`: its first bytes. `WholeNeeded` has no payload."""
        return await self._client.call("decode_remote", deadline, task, file, key=key, payloads=(head,))

    async def decode_pictures(
        self, deadline: Deadline, task: VideoTask, pictures: Sequence[TensorRef], *, key: str
    ) -> StageResult[DecodedVideo]:
        """The same of a list of picture files, in order."""
        return await self._client.call("decode_pictures", deadline, task, key=key, payloads=pictures)


class PreprocessorReplica(Protocol):
    def profile(self, remaining_s: float) -> AsyncGenerator[MediaProfile, None]: ...

    def prepare(
        self, remaining_s: float, chat: Chat, inputs: tuple[MediaInput, ...], *payloads: Payload
    ) -> AsyncGenerator[Prepared | Tensors, None]: ...

    def continue_text(self, remaining_s: float, prompt: PlainPrompt) -> AsyncGenerator[Prepared, None]: ...

    def detokenize(self, remaining_s: float, token_ids: tuple[int, ...]) -> AsyncGenerator[str, None]: ...


class Preprocessing(_Door):
    async def profile(self, deadline: Deadline) -> MediaProfile:
        """What the graph must know of the model's processor."""
        result: StageResult[MediaProfile] = await self._client.call("profile", deadline, answer_has_payload=False)
        return result.meta

    async def prepare(
        self, deadline: Deadline, chat: Chat, inputs: tuple[MediaInput, ...], payloads: Sequence[TensorRef]
    ) -> StageResult[Prepared]:
        """Token ids, and the processor's tensors by name if there are media: as a payload, or as `Prepared.sizes`.
        `payloads`: of `inputs`, in their order, but for those whose pixels go straight to the model."""
        has_pixels = not all(item.pixels_at_model for item in inputs)
        return await self._client.call(
            "prepare", deadline, chat, inputs, payloads=payloads, answer_has_payload=has_pixels
        )

    async def continue_text(self, deadline: Deadline, prompt: PlainPrompt) -> StageResult[Prepared]:
        """Token ids of a text that the model goes on with, without a chat template."""
        return await self._client.call("continue_text", deadline, prompt, answer_has_payload=False)

    async def detokenize(self, deadline: Deadline, token_ids: tuple[int, ...]) -> str:
        """The text of tokens."""
        result: StageResult[str] = await self._client.call("detokenize", deadline, token_ids, answer_has_payload=False)
        return result.meta


class EncoderReplica(Protocol):
    def encode(
        self, remaining_s: float, task: EncodeTask, *tensors: Tensors
    ) -> AsyncGenerator[EncodedMedia | Tensors, None]: ...


class MediaEncoding(_Door):
    async def encode(
        self, deadline: Deadline, task: EncodeTask, tensors: Sequence[TensorRef], *, key: str
    ) -> StageResult[EncodedMedia]:
        """Encoder outputs in place of pixels. `tensors`: the preprocessor's, unless `task` holds them, then clips."""
        return await self._client.call("encode", deadline, task, key=key, payloads=tensors)


class ModelReplica(Protocol):
    def generate(
        self,
        remaining_s: float,
        prepared: Prepared,
        params: SamplingParams,
        stream: bool,
        later: list[TensorRef],
        *tensors: Tensors,
    ) -> AsyncGenerator[GenerateChunk, None]: ...


class TextGeneration(_Door):
    def generate(
        self,
        deadline: Deadline,
        prepared: Prepared,
        params: SamplingParams,
        stream: bool,
        tensors: Sequence[TensorRef],
        later: Sequence[TensorRef] = (),
        *,
        key: str,
    ) -> AsyncGenerator[GenerateChunk, None]:
        """The answer's chunks. `tensors`: the preprocessor's unless `prepared` holds them, then those of clips that
        went past it, or what encoders made of them; `later`: in their place the groups of one, promised. Raises
        `MediaLost` where one is lost."""
        return self._client.stream(
            "generate", deadline, prepared, params, stream, key=key, payloads=tensors, promises=later
        )


@dataclass(frozen=True, slots=True)
class ModelStages:
    """The stages that a model has for itself."""

    preprocessor: Preprocessing
    model: TextGeneration
    encoder: MediaEncoding | None = None
    """None where the model encodes by itself."""


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages behind the ingress."""

    fetcher: MediaFetching
    decoder: VideoDecoding
    models: Mapping[str, ModelStages]
    """By the names that clients use."""

    @classmethod
    def over(
        cls, fetcher: StageClient, decoder: PromisingClient, models: Mapping[str, Sequence[StageClient]]
    ) -> "Stages":
        """The doors over the clients that carry their calls; of each model its preprocessor's, its own, and its
        encoder's if it has one."""
        doors = {
            name: ModelStages(Preprocessing(first), TextGeneration(own), *map(MediaEncoding, encoder))
            for name, (first, own, *encoder) in models.items()
        }
        return cls(MediaFetching(fetcher), VideoDecoding(decoder), doors)
