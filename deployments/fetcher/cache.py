"""Fetched media kept in memory by URL, as far as its host allows (RFC 9111) and up to a number of bytes."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from deployments.fetcher.blob import Blob


@dataclass(frozen=True, slots=True)
class Freshness:
    """What a response's headers say about keeping it."""

    storable: bool
    max_age_s: float
    """How long it may be used without asking its host again."""
    etag: str | None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Freshness":
        """Of a shared cache's point of view: `private` media are not kept. Nothing is guessed where nothing is said."""
        directives = _directives(headers.get("Cache-Control", ""))
        etag = headers.get("ETag")
        age_s = _seconds(directives.get("s-maxage", directives.get("max-age"))) - _seconds(headers.get("Age"))
        max_age_s = 0.0 if "no-cache" in directives else max(0.0, age_s)
        forbidden = {"no-store", "private"} & directives.keys() or headers.get("Vary", "").strip() == "*"
        return cls(not forbidden and (max_age_s > 0 or etag is not None), max_age_s, etag)


@dataclass(frozen=True, slots=True)
class Entry:
    """A blob that may be used until `fresh_until`, and after that once its host has said that `etag` still holds."""

    blob: Blob
    etag: str | None
    fresh_until: float
    """By the cache's clock."""


class MediaCache:
    """Least recently used goes first; holds at most `capacity_bytes`."""

    def __init__(self, capacity_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity_bytes
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self.size_bytes = 0

    def get(self, url: str) -> Entry | None:
        entry = self._entries.get(url)
        if entry is not None:
            self._entries.move_to_end(url)
        return entry

    def is_fresh(self, entry: Entry) -> bool:
        return self._clock() < entry.fresh_until

    def put(self, url: str, blob: Blob, freshness: Freshness) -> None:
        """Keep `blob` if its host allows that and it fits; what was kept for `url` goes in any case."""
        self.drop(url)
        if freshness.storable and len(blob.data) <= self._capacity:
            self._entries[url] = Entry(blob, freshness.etag, self._clock() + freshness.max_age_s)
            self.size_bytes += len(blob.data)
            while self.size_bytes > self._capacity:
                self.drop(next(iter(self._entries)))

    def confirm(self, url: str, entry: Entry, freshness: Freshness) -> None:
        """The host has said that `entry` still holds: keep it for as long as it says now."""
        freshness = replace(freshness, etag=freshness.etag or entry.etag)
        self.put(url, entry.blob, freshness)

    def drop(self, url: str) -> None:
        entry = self._entries.pop(url, None)
        if entry is not None:
            self.size_bytes -= len(entry.blob.data)


def _directives(cache_control: str) -> dict[str, str]:
    pairs = (directive.strip().partition("=") for directive in cache_control.lower().split(","))
    return {name.strip(): value.strip(' "') for name, _, value in pairs if name.strip()}


def _seconds(value: str | None) -> float:
    return float(value) if value is not None and value.isdecimal() else 0.0
