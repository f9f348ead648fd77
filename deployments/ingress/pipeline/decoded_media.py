"""Decoded videos of earlier requests, kept as references for whoever asks about them again.

Kept here and not where they were decoded: the caller owns what a stage made, so that finding it takes no call, outlives
the replica that made it, and makes way at once when admission wants the room. Known by SHA-256 of the file and by all
that was asked of the decoder; whatever is lost is made again.

Pictures and sounds are not among them: they are decoded where they are prepared, and what comes out of that is one set
of tensors of all of a request's items together, which no other request of fewer, more or other items could use. Kept
alone, their pixels and samples would be a step more on each first request's way. They skip the fetch and the encoder.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deployments.core.bounded_cache import BoundedCache
from deployments.observability.metrics import MetricSink
from deployments.stage_calls import TensorRef
from deployments.types import DecodedVideo, Fetched, StageName, VideoTask

MAX_SOURCES = 4096
"""Of which it is remembered what their contents were: some hundred bytes each."""

Key = tuple[str, VideoTask, str]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A clip, and the files that it was made of."""

    files: tuple[Fetched, ...]
    video: DecodedVideo
    payloads: tuple[TensorRef, ...]
    """Its groups, where it came in such."""


class DecodedMedia:
    """Least recently used goes first. One for an ingress replica, used on its event loop."""

    def __init__(self, share: float, metrics: MetricSink, *, per_client: bool = False) -> None:
        """`share`: of what admission may let in. `per_client`: nobody is shown what another client's request made."""
        self._share = share
        self._per_client = per_client
        self._spare_bytes = 0
        self._kept: BoundedCache[Key, Decoded] = BoundedCache(
            StageName.VIDEO_DECODE, 0, lambda decoded: decoded.video.payload_bytes, metrics
        )
        self._contents: OrderedDict[str, Fetched] = OrderedDict()

    @property
    def keeps_any(self) -> bool:
        return self._share > 0

    @property
    def size_bytes(self) -> int:
        return self._kept.size_bytes

    def fit(self, held_bytes: int, max_bytes: int) -> None:
        """Admitted requests hold `held_bytes` of `max_bytes`: what is kept makes way for them."""
        self._spare_bytes = max(0, max_bytes - held_bytes)
        self._kept.capacity_bytes = int(max_bytes * self._share)
        self._kept.shrink(min(self._kept.capacity_bytes, self._spare_bytes))

    def expected(self, sources: Sequence[str], task: VideoTask, client: str) -> Decoded | None:
        """What is kept of these sources, named as `source_name` does, if their contents are still what they were."""
        files = [self._contents.get(source) for source in sources]
        known = [file for file in files if file is not None]
        return self.find(known, task, client) if len(known) == len(files) else None

    def find(self, files: Sequence[Fetched], task: VideoTask, client: str) -> Decoded | None:
        """What is kept of files of these contents."""
        digest = joined_digest(files)
        return self._kept.get(self._key(digest, task, client)) if digest else None

    def keep(self, sources: Sequence[str], decoded: Decoded, task: VideoTask, client: str) -> None:
        """For whoever comes with the same contents; under `sources`, it is found before they are fetched."""
        digest = joined_digest(decoded.files)
        if not digest:
            return
        self._kept.put(self._key(digest, task, client), decoded)
        self._kept.shrink(min(self._kept.capacity_bytes, self._spare_bytes))
        self.remember(sources, decoded.files)

    def remember(self, sources: Sequence[str], files: Sequence[Fetched]) -> None:
        """What the contents of `sources` were last."""
        for source, file in zip(sources, files, strict=True):
            self._contents[source] = file
            self._contents.move_to_end(source)
        while len(self._contents) > MAX_SOURCES:
            self._contents.popitem(last=False)

    def forget(self, files: Sequence[Fetched], task: VideoTask, client: str) -> None:
        """It was lost, with the machine that held it."""
        self._kept.drop(self._key(joined_digest(files), task, client))

    def record(self, *, hits: int = 0, misses: int = 0) -> None:
        """See `BoundedCache.record`."""
        self._kept.record(hits=hits, misses=misses)

    def _key(self, digest: str, task: VideoTask, client: str) -> Key:
        return digest, replace(task, label=""), client if self._per_client else ""


def joined_digest(files: Sequence[Fetched]) -> str:
    """Of one file its own; of several a digest of theirs; empty where one has none."""
    digests = [file.digest for file in files]
    if not all(digests):
        return ""
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
