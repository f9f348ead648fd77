"""Fetched media kept in memory by URL, as far as its host allows (RFC 9111) and up to a number of bytes.

What redirects led to is kept by the URL that was asked for, for as long as every answer on the way allows. A redirect
that says nothing of that is asked for each time; then only the bytes are spared, by the last host's word on them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from yarl import URL

from deployments.core.bounded_cache import BoundedCache
from deployments.fetcher.blob import Blob
from deployments.observability.metrics import MetricSink
from deployments.types import StageName


@dataclass(frozen=True, slots=True)
class Validators:
    """By what a host can tell whether an answer of it still holds (RFC 9110, 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return self.etag is not None or self.last_modified is not None

    def headers(self) -> dict[str, str]:
        """Of a conditional GET; none where nothing is known."""
        asked = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in asked.items() if value is not None}


NOTHING_KNOWN = Validators()


@dataclass(frozen=True, slots=True)
class Freshness:
    """What a response's headers say about keeping it. Nothing is guessed where nothing is said."""

    allowed: bool
    """Whether it may be kept at all."""
    max_age_s: float
    """How long it may be used without asking its host again."""
    validators: Validators = NOTHING_KNOWN
    private: bool = False
    """It may be kept for the client alone for whom it was fetched."""

    @property
    def storable(self) -> bool:
        """Whether keeping it can spare a download."""
        return self.allowed and (self.max_age_s > 0 or bool(self.validators))

    def through(self, hop: "Freshness") -> "Freshness":
        """Of an answer that `hop`, a redirect, led to: what both allow."""
        return replace(
            self,
            allowed=self.allowed and hop.allowed,
            max_age_s=min(self.max_age_s, hop.max_age_s),
            private=self.private or hop.private,
        )

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Freshness":
        directives = _directives(headers.get("Cache-Control", ""))
        validators = Validators(headers.get("ETag"), headers.get("Last-Modified"))
        private = "private" in directives
        shared_age = None if private else directives.get("s-maxage")
        age_s = _seconds(shared_age or directives.get("max-age")) - _seconds(headers.get("Age"))
        max_age_s = 0.0 if "no-cache" in directives else max(0.0, age_s)
        forbidden = "no-store" in directives or headers.get("Vary", "").strip() == "*"
        return cls(not forbidden, max_age_s, validators, private)


@dataclass(frozen=True, slots=True)
class Entry:
    """A blob that may be used until `fresh_until`, and after that once its host has said that it still holds."""

    blob: Blob
    validators: Validators
    fresh_until: float
    """By the cache's clock."""
    private: bool
    hops: tuple[URL, ...] = ()
    """Where redirects led from its URL, one after the other; the validators are the last one's."""


class MediaCache:
    """Least recently used goes first; holds at most `capacity_bytes`."""

    def __init__(
        self,
        capacity_bytes: int,
        metrics: MetricSink,
        clock: Callable[[], float] = time.monotonic,
        *,
        per_client: bool = False,
    ) -> None:
        """`per_client`: no answer is another client's, whatever its host says."""
        self._clock = clock
        self._per_client = per_client
        self._kept: BoundedCache[tuple[str, str | None], Entry] = BoundedCache(
            StageName.FETCH, capacity_bytes, lambda entry: len(entry.blob.data), metrics
        )

    @property
    def size_bytes(self) -> int:
        return self._kept.size_bytes

    def get(self, url: str, client: str = "") -> Entry | None:
        """What was kept for `client` alone, or for everybody."""
        return self._kept.get((url, client)) or self._kept.get((url, None))

    def is_fresh(self, entry: Entry) -> bool:
        return self._clock() < entry.fresh_until

    def put(self, url: str, blob: Blob, freshness: Freshness, client: str = "", hops: tuple[URL, ...] = ()) -> None:
        """Keep `blob` if its host allows that and it fits; what was kept for `url` goes in any case."""
        self._kept.drop((url, client))
        self._kept.drop((url, None))
        if freshness.storable:
            alone = self._per_client or freshness.private
            entry = Entry(blob, freshness.validators, self._clock() + freshness.max_age_s, freshness.private, hops)
            self._kept.put((url, client if alone else None), entry)

    def confirm(
        self, url: str, entry: Entry, freshness: Freshness, client: str = "", hops: tuple[URL, ...] = ()
    ) -> None:
        """The host has said that `entry` still holds: keep it for as long as it, and who led to it, say now."""
        said, known = freshness.validators, entry.validators
        validators = Validators(said.etag or known.etag, said.last_modified or known.last_modified)
        private = freshness.private or entry.private
        self.put(url, entry.blob, replace(freshness, validators=validators, private=private), client, hops)

    def record(self, *, hits: int = 0, misses: int = 0) -> None:
        """See `BoundedCache.record`."""
        self._kept.record(hits=hits, misses=misses)


def _directives(cache_control: str) -> dict[str, str]:
    pairs = (directive.strip().partition("=") for directive in cache_control.lower().split(","))
    return {name.strip(): value.strip(' "') for name, _, value in pairs if name.strip()}


def _seconds(value: str | None) -> float:
    return float(value) if value is not None and value.isdecimal() else 0.0
