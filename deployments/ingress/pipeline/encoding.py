"""From a prompt with pixels to one with encoder outputs, where the model's towers are a deployment of their own.

Pixels go to an encoder and nowhere else; its outputs are put into the object store once, and read by the model alone.
The videos of a request that has nothing else are encoded side by side: each is a payload of its own.
"""

from collections.abc import Sequence
from dataclasses import replace

from deployments.config import EncoderConfig
from deployments.ingress.pipeline.content_keys import Content
from deployments.ingress.pipeline.items import Progress
from deployments.ingress.pipeline.side_by_side import together
from deployments.stage_calls import StageResult, TensorRef
from deployments.stages import MediaEncoding
from deployments.types import EncodedMedia, EncodeTask, Prepared, StageName


class EncodeStep:
    """One for a pipeline whose model has an encoder."""

    def __init__(self, config: EncoderConfig, encoder: MediaEncoding) -> None:
        self._config = config
        self._encoder = encoder

    async def encode(
        self, prepared: Prepared, tensors: list[TensorRef], contents: Sequence[Content], progress: Progress
    ) -> tuple[list[TensorRef], frozenset[str]]:
        """What the model needs in place of `tensors`, and the labels of the items that a tower had to look at.

        `tensors` is emptied: the ingress holds no pixels any more. Raises `SluiceError`s; the first part that fails
        cancels the others.
        """
        parts = self._parts(prepared, tensors, contents)
        tensors.clear()
        results = await together(self._part(*part, progress) for part in parts)
        outputs_bytes = sum(result.meta.size_bytes for result in results)
        progress.lease.resize(progress.lease.size_bytes + outputs_bytes)
        return [result.own_payload for result in results], frozenset().union(*(r.meta.encoded for r in results))

    def _parts(
        self, prepared: Prepared, tensors: Sequence[TensorRef], contents: Sequence[Content]
    ) -> list[tuple[EncodeTask, list[TensorRef], str]]:
        """Tasks, with their tensors and the keys of their calls."""
        task = EncodeTask(
            prepared.pixel_norm, prepared.media, prepared.cache_salt, prepared.reuse, prepared.sizes, first_clip=0
        )
        largest = max(contents, key=lambda content: content.size_bytes)
        if prepared.sizes is None:
            return [(task, list(tensors), largest.key)]
        if len(tensors) != len(contents):  # some clip is kept in groups: nobody here knows which are whose
            return [(replace(task, num_clips=len(contents)), list(tensors), largest.key)]
        size = -(-len(tensors) // self._config.max_parts)
        pieces = [(i, list(tensors[i : i + size])) for i in range(0, len(tensors), size)]
        return [(replace(task, first_clip=i, num_clips=len(own)), own, contents[i].key) for i, own in pieces]

    async def _part(
        self, task: EncodeTask, tensors: list[TensorRef], key: str, progress: Progress
    ) -> StageResult[EncodedMedia]:
        limited = progress.deadline.capped(self._config.timeout_s, StageName.ENCODE)
        result = await self._encoder.encode(limited, task, tensors, key=key)
        tensors.clear()
        progress.timings.note(StageName.ENCODE, result.seconds, worked_s=result.meta.encode_s)
        return result
