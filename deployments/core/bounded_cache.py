"""What may be wanted again, kept within a number of bytes, the least recently used leaving first.

Knows neither what it keeps nor how its keys come about; tells the metrics under its own name what it holds and lets go.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class CacheMetrics(Protocol):
    """What is used of a `MetricSink`."""

    def count(self, name: str, value: float = 1, **tags: str) -> None: ...

    def gauge(self, name: str, value: float, **tags: str) -> None: ...


class BoundedCache(Generic[K, V]):
    """For one thread or event loop."""

    def __init__(self, name: str, capacity_bytes: int, size_of: Callable[[V], int], metrics: CacheMetrics) -> None:
        """`name`: the metrics' tag `cache`. `size_of`: bytes of a value."""
        self._name = name
        self.capacity_bytes = capacity_bytes
        self._size_of = size_of
        self._metrics = metrics
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """What is kept under `key`, which is used herewith. Whether that was a hit, the caller `record`s."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: K, value: V) -> None:
        """Keep `value` in place of what was kept under `key`, unless it is larger than the whole cache."""
        self.drop(key)
        size_bytes = self._size_of(value)
        if size_bytes <= self.capacity_bytes:
            self._entries[key] = value, size_bytes
            self.size_bytes += size_bytes
        self.shrink(self.capacity_bytes)

    def shrink(self, size_bytes: int) -> None:
        """Let go of what was not used for longest until no more than `size_bytes` are held."""
        evicted = 0
        while self.size_bytes > size_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self.size_bytes -= freed
            evicted += 1
        if evicted:
            self._metrics.count("sluice_cache_evictions", evicted, cache=self._name)
        self._metrics.gauge("sluice_cache_bytes", self.size_bytes, cache=self._name)

    def drop(self, key: K) -> None:
        """Forget what is kept under `key`, if anything is."""
        if key in self._entries:
            _, freed = self._entries.pop(key)
            self.size_bytes -= freed

    def clear(self) -> None:
        """Forget everything; nothing was evicted."""
        self._entries.clear()
        self.size_bytes = 0
        self._metrics.gauge("sluice_cache_bytes", 0, cache=self._name)

    def record(self, *, hits: int = 0, misses: int = 0) -> None:
        """So often something was there, or had to be made."""
        if hits:
            self._metrics.count("sluice_cache_hits", hits, cache=self._name)
        if misses:
            self._metrics.count("sluice_cache_misses", misses, cache=self._name)
