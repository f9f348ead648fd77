"""Encoder outputs of media that may be seen again, by a digest of what they were made of, within a bound of bytes.

What is kept belongs to the cache alone: a request's end, abort or error takes nothing out of it and leaves nothing in
it.
"""

from collections import OrderedDict

from deployments.model.multimodal.items import Item
from deployments.model.multimodal.request_media import EncodedRows, MediaMemory


class EncoderCache:
    """The least recently used leave first. Belongs to the engine's thread."""

    def __init__(self, capacity_bytes: int, memory: MediaMemory) -> None:
        """`memory` is told what is kept."""
        self._capacity_bytes = capacity_bytes
        self._memory = memory
        self._entries: OrderedDict[bytes, EncodedRows] = OrderedDict()

    def holds(self, item: Item, *, wait: bool) -> bool | None:
        """Whether an expected item's outputs are there; None where that is not known yet and the caller can't `wait`.

        An item that can't be digested is not there; `get` raises the reason.
        """
        assert item.key is not None
        if not wait and not item.key.done():
            return None
        return item.key.exception() is None and item.key.result() in self._entries

    def get(self, item: Item) -> EncodedRows | None:
        """An expected item's outputs, where they are there. Raises what made its digest fail."""
        assert item.key is not None
        key = item.key.result()
        rows = self._entries.get(key)
        if rows is not None:
            self._entries.move_to_end(key)
        return rows

    def put(self, item: Item, rows: EncodedRows) -> None:
        """Keep a copy of an expected item's outputs, unless it is larger than the whole cache."""
        assert item.key is not None
        key = item.key.result()
        if key in self._entries or rows.nbytes > self._capacity_bytes:
            return
        self._entries[key] = rows.clone()
        self._memory.cached_bytes += rows.nbytes
        while self._memory.cached_bytes > self._capacity_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._memory.cached_bytes -= oldest.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._memory.cached_bytes = 0
