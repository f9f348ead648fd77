"""A media item on its way through the stages: how it is to be worked on, and what is noted and comes of it."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from deployments.core.deadline import Deadline
from deployments.ingress.admission.lease import Lease
from deployments.ingress.http.timing import Timings
from deployments.ingress.pipeline.content_keys import Content
from deployments.ingress.pipeline.decoded_media import Decoded
from deployments.ingress.pipeline.overlap import Coming, Overlap
from deployments.ingress.request import ItemPlan
from deployments.stage_calls import StageResult, TensorRef
from deployments.types import CacheUse, Fetched, MediaInput, ResizeRule, VideoTask


@dataclass(frozen=True, slots=True)
class ItemTask:
    """An item and, for a video, how it is to be decoded."""

    item: ItemPlan
    video: VideoTask | None
    pixel_bytes: int
    """What its pixels are expected to hold."""
    picture: ResizeRule | None = None
    """What a picture will be brought to."""

    @property
    def needs_encoding(self) -> bool:
        """Whether its pixels or samples are there, and not what is made of them."""
        return not self.item.embeds and self.item.declared is None


@dataclass(slots=True)
class ItemCacheUse:
    """What of an item was there already."""

    fetch: CacheUse = CacheUse.OFF
    decode: CacheUse | None = None
    """Of a video."""


@dataclass(frozen=True, slots=True)
class LoadedItem:
    """An item on its way to the preprocessor."""

    media: MediaInput
    payloads: tuple[TensorRef, ...]
    """None of one that is only counted; several of a clip that came in groups."""
    content: Content
    is_kept: bool = False
    """Whether it is a clip that was made for an earlier request."""
    coming: Coming | None = None
    """In place of payloads that are not there yet."""
    confirm: Callable[[], Coroutine[Any, Any, None]] | None = None
    """To be awaited before anything is said of it: whether its sources are still what they were. Raises `SourceChanged`
    and what fetching raises."""


class SourceChanged(Exception):
    """What was taken for a file's content is not any more."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What belongs to a request while its items are worked on."""

    deadline: Deadline
    timings: Timings
    lease: Lease
    reuse: bool = True
    """Whether the client wants what is kept of earlier requests."""
    cache: dict[str, ItemCacheUse] = field(default_factory=dict)
    """By label."""
    reused: list[tuple[VideoTask, Decoded]] = field(default_factory=list)
    """Clips of earlier requests, which may turn out to be lost."""
    brought: dict[str, StageResult[Fetched]] = field(default_factory=dict)
    """By name of their source: files that were fetched to see whether they have changed, and have."""
    changed: dict[str, str] = field(default_factory=dict)
    """Likewise: digests of what is at the others now."""
    overlap: Overlap = field(default_factory=Overlap)
