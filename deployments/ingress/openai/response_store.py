"""Conversations of earlier responses, in the memory of one ingress replica; the oldest go when there are too many."""

from collections import OrderedDict
from typing import Any

import orjson

Items = tuple[dict[str, Any], ...]


class ResponseStore:
    """Bounded by number and by bytes. With several ingress replicas each knows its own alone."""

    def __init__(self, max_responses: int, max_bytes: int) -> None:
        """`max_responses`: 0 keeps none."""
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()
        self._size_bytes = 0

    def keep(self, response: dict[str, Any], history: Items) -> None:
        """A response and the conversation up to it."""
        whole, items = orjson.dumps(response), orjson.dumps(history)
        if not self._max_responses or len(whole) + len(items) > self._max_bytes:
            return
        self._kept[response["id"]] = (whole, items)
        self._size_bytes += len(whole) + len(items)
        while len(self._kept) > self._max_responses or self._size_bytes > self._max_bytes:
            self.forget(next(iter(self._kept)))

    def history(self, response_id: str) -> Items | None:
        """The conversation up to a response, itself included."""
        kept = self._kept.get(response_id)
        return None if kept is None else tuple(orjson.loads(kept[1]))

    def response(self, response_id: str) -> bytes | None:
        """A response as it was told, as JSON."""
        kept = self._kept.get(response_id)
        return None if kept is None else kept[0]

    def forget(self, response_id: str) -> bool:
        """Whether it was there."""
        kept = self._kept.pop(response_id, None)
        if kept is not None:
            self._size_bytes -= len(kept[0]) + len(kept[1])
        return kept is not None
