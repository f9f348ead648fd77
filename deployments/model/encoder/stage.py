"""The encode stage without Ray: a checkpoint's towers, and what they make of requests' media."""

import asyncio
import warnings
from collections.abc import Sequence

import torch

from deployments.autoscaling import StageLoad
from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.errors import SluiceError, StageTimeout
from deployments.model.encoder.loop import STEP_VALUES, EncoderLoop
from deployments.model.encoder.work import EncodeWork
from deployments.model.engine.failures import request_error
from deployments.model.families.family import Family
from deployments.model.families.parts import Part
from deployments.model.families.patch_conv import speed_up_patches
from deployments.model.forward.fused import fuse
from deployments.model.forward.request_items import items_of
from deployments.model.forward.tower_runner import TowerRunner
from deployments.model.forward.tower_warm_up import warm_up_towers
from deployments.model.forward.towers import speed_up_towers
from deployments.model.loading import MIB, freeze_heap
from deployments.model.multimodal.digests import Digests
from deployments.model.multimodal.encoded import Arrays, arrays_of
from deployments.model.multimodal.encoder_cache import EncoderCache
from deployments.model.multimodal.items import Item
from deployments.model.multimodal.pixels import add_clips
from deployments.model.multimodal.request_media import MediaMemory
from deployments.model.multimodal.uploads import Uploads
from deployments.model.weights import load_model, start_device
from deployments.observability.metrics import MetricSink
from deployments.types import EncodedMedia, EncodeTask, MediaKind, MediaMark, StageName

STAGE = StageName.ENCODE
DRAIN_S = 15.0
"""Longest wait for media that are being encoded at shutdown."""


# Payloads are views of shared memory, hence read-only; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def load_towers(config: AppConfig) -> Family:
    """The checkpoint's towers, as fast as a model replica has them, and warm. Raises `InternalError` where there are
    none, or the family is not served."""
    model = load_model(config, start_device(config), part=Part.TOWERS)
    family = Family(model)
    speed_up_patches(model)
    speed_up_towers(model)
    fuse(model, kernels=model.device.type == "cuda")
    if model.device.type == "cuda":  # a CPU has nothing to set up
        warm_up_towers(family)
    freeze_heap()
    return family


class EncodeStage:
    """One family's towers, on one device."""

    def __init__(self, family: Family, config: AppConfig, metrics: MetricSink, step_values: int = STEP_VALUES) -> None:
        """`config`: with a section `encoder`. `step_values`: see `EncoderLoop`."""
        assert config.encoder is not None
        self._family = family
        self._timeout_s = config.encoder.timeout_s
        memory = MediaMemory(int(config.engine.encoder_budget_mib * MIB))
        reuse_bytes = int(config.engine.reuse_cache_mib * MIB)
        cache = EncoderCache(reuse_bytes, memory, metrics) if reuse_bytes else None
        digests = None if cache is None else Digests()
        self._towers = TowerRunner(family, Uploads(family.model.device), cache, digests)
        self.loop = EncoderLoop(
            self._towers,
            memory,
            metrics,
            max_waiting=config.encoder.max_waiting,
            target_backlog_s=config.encoder.target_backlog_s,
            step_values=step_values,
        )

    async def encode(
        self, remaining_s: float, task: EncodeTask, tensors: Sequence[Arrays]
    ) -> tuple[EncodedMedia, Arrays]:
        """Within `remaining_s`. `tensors`: the processor's unless `task` holds them, then patches of clips; the dicts
        end up without pixels, so that they hold no memory.

        Raises `BadRequest`, `TooLarge`, `Overloaded`, `StageTimeout`, `StageUnavailable`, `InternalError`.
        """
        deadline = Deadline(min(remaining_s, self._timeout_s), STAGE)
        media = task.media if task.sizes is None else task.media[task.first_clip :][: task.num_clips]
        try:
            arrays, rest = await asyncio.to_thread(self._unpacked, task, list(tensors))
            items = self._items(task, media, arrays)
        except SluiceError:
            raise
        except Exception as error:  # tensors that do not go together
            raise request_error(error) from error
        arrays.clear()
        work = await self._encoded(items, deadline)
        items.clear()
        outputs = await asyncio.to_thread(arrays_of, work.outputs)
        size_bytes = sum(array.nbytes for array in outputs.values())
        return EncodedMedia(work.seconds, size_bytes, frozenset(work.encoded)), rest | outputs

    @property
    def load(self) -> StageLoad | None:
        """How much of a replica the media in hand take."""
        return self.loop.load

    def check_health(self) -> None:
        """Raise `ReplicaLost` when the towers' thread is dead, `InternalError` when it is stuck."""
        self.loop.check_health()

    def close(self) -> None:
        """Let what is being encoded end for a while, then stop."""
        self.loop.close(DRAIN_S)

    async def _encoded(self, items: Sequence[Item], deadline: Deadline) -> EncodeWork:
        """The items' work, done. Whoever leaves early takes it along."""
        work = self.loop.submit(items, deadline)
        try:
            await asyncio.wait({asyncio.wrap_future(work.done)}, timeout=deadline.remaining_s())
        finally:
            if not work.done.done():
                deadline.cancel()
                self.loop.wake()
        if not work.done.done():
            raise StageTimeout(STAGE)
        if (error := work.done.result()) is not None:
            raise error
        return work

    def _unpacked(self, task: EncodeTask, tensors: list[Arrays]) -> tuple[Arrays, Arrays]:
        """What the towers look at, and what is left for the model."""
        if task.sizes is None:
            arrays = dict(tensors.pop(0))
            rest = {name: array for name, array in arrays.items() if name not in self._pixels(arrays)}
        else:
            arrays, rest = self._of_clips(task), {}
        if tensors:
            add_clips(arrays, tensors)
        return arrays, rest

    def _of_clips(self, task: EncodeTask) -> Arrays:
        """The sizes of the task's own clips, among those of all that its request has."""
        assert task.sizes is not None
        names = self._family.features[MediaKind.VIDEO].argument_names
        own, total = slice(task.first_clip, task.first_clip + task.num_clips), len(task.media)
        return {n: array[own] if n in names and len(array) == total else array for n, array in task.sizes.items()}

    def _pixels(self, arrays: Arrays) -> set[str]:
        """Names of what only towers look at."""
        main = {feature.main_tensor for feature in self._family.features.values()}
        return {name for name in arrays if name in main or name.startswith("pixel_")}

    def _items(self, task: EncodeTask, media: Sequence[MediaMark], arrays: Arrays) -> list[Item]:
        """What is to be encoded; encoder outputs that a client brought are not. `media`: of these tensors."""
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        norm, salt = task.pixel_norm, task.cache_salt
        items: list[Item] = []
        for kind in self._family.kinds_in(tensors):
            if f"{kind}_embeds" not in tensors:
                items += items_of(self._family, kind, tensors, norm=norm, media=media, salt=salt)
        if task.reuse:
            self._towers.expect(items)
        return items
