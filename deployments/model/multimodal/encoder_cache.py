"""Encoder outputs of media that may be seen again, by a digest of what they were made of, within a bound of bytes.

What is kept belongs to the cache alone: a request's end, abort or error takes nothing out of it and leaves nothing in
it.
"""

from deployments.core.bounded_cache import BoundedCache
from deployments.model.multimodal.items import Item
from deployments.model.multimodal.request_media import EncodedRows, MediaMemory
from deployments.observability.metrics import MetricSink
from deployments.types import StageName


class EncoderCache:
    """The least recently used leave first. Belongs to the engine's thread."""

    def __init__(self, capacity_bytes: int, memory: MediaMemory, metrics: MetricSink) -> None:
        """`memory` is told what is kept."""
        self._memory = memory
        self._kept: BoundedCache[bytes, EncodedRows] = BoundedCache(
            StageName.ENCODE, capacity_bytes, lambda rows: rows.nbytes, metrics
        )

    def holds(self, item: Item, *, wait: bool) -> bool | None:
        """Whether an expected item's outputs are there; None where that is not known yet and the caller can't `wait`.

        An item that can't be digested is not there; `get` raises the reason.
        """
        assert item.key is not None
        if not wait and not item.key.done():
            return None
        return item.key.exception() is None and item.key.result() in self._kept

    def get(self, item: Item) -> EncodedRows | None:
        """An expected item's outputs, where they are there. Raises what made its digest fail."""
        assert item.key is not None
        return self._kept.get(item.key.result())

    def put(self, item: Item, rows: EncodedRows) -> None:
        """Keep a copy of an expected item's outputs, unless it is larger than the whole cache."""
        assert item.key is not None
        key = item.key.result()
        if key not in self._kept:
            self._kept.put(key, rows.clone())
            self._memory.cached_bytes = self._kept.size_bytes

    def record(self, *, hits: int, misses: int) -> None:
        """See `BoundedCache.record`."""
        self._kept.record(hits=hits, misses=misses)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._memory.cached_bytes = 0
