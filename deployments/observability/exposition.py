"""`/metrics` for the whole application: what every node's Ray agent exports, reduced to what concerns serving.

Each replica reports to the agent of its node, which exports Prometheus text. One replica's own view would be a part of
the truth, so the page is gathered from all nodes, and merged family by family as the format demands.

Most of what Ray exports of Serve are buckets of histograms by process, which nobody asks for: its histograms come as
summaries, with their counts and sums. Who wants the buckets scrapes the agents themselves.
"""

import asyncio
import gzip
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import aiohttp

OWN = "ray_sluice_"
FAMILIES = (OWN, "ray_serve_", "ray_object_store_", "ray_spill_manager_")
INTERNAL = ("ray_serve_long_poll_", "ray_serve_event_loop_")
"""How Serve's own processes tell each other what has changed."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NOISE = re.compile(r'(?:otel_scope_\w+|SessionName|Version|Component)="[^"]*",?|(?<=WorkerId="\w{8})\w+')
"""Labels of Ray's own bookkeeping, and what of a worker's name is not needed to tell it from others."""
_HELP, _TYPE = "# HELP ", "# TYPE "
_NODE_TIMEOUT_S = 2.0
_FRESH_S = 1.0
_GZIP_LEVEL = 4


def merge(pages: Iterable[str]) -> str:
    """One page of Prometheus text out of several: families in `FAMILIES` only, each with one HELP and TYPE.

    Labels of Ray's own bookkeeping are dropped; `NodeAddress` and `WorkerId` stay and keep series apart.
    """
    heads: dict[str, tuple[str, str]] = {}
    samples: dict[str, dict[str, None]] = {}
    for page in pages:
        for block in f"\n{page}".split(f"\n{_HELP}")[1:]:
            if block.startswith(FAMILIES) and not block.startswith(INTERNAL):
                described, typed, *lines = block.splitlines()
                family, _, kind = typed.removeprefix(_TYPE).partition(" ")
                if kind == "histogram" and not family.startswith(OWN):
                    kind, lines = "summary", [line for line in lines if not line.startswith(f"{family}_bucket")]
                heads.setdefault(family, (f"{_HELP}{described}", f"{_TYPE}{family} {kind}"))
                told = (_NOISE.sub("", line).replace(",}", "}") for line in lines if line.startswith(family))
                samples.setdefault(family, {}).update(dict.fromkeys(told))
    return "\n".join(line for family, head in heads.items() for line in (*head, *samples[family])) + "\n"


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered, as it is and compressed."""

    plain: bytes
    gzipped: bytes


class ApplicationMetrics:
    """Gathers the page; at most once a second, whoever asks. `endpoints` lists the agents' URLs and may block."""

    def __init__(self, endpoints: Callable[[], Sequence[str]]) -> None:
        self._endpoints = endpoints
        self._session: aiohttp.ClientSession | None = None
        self._gathering: asyncio.Task[Page] | None = None
        self._gathered_at = float("-inf")

    async def page(self) -> Page:
        """Prometheus text. A node that does not answer in time is left out, and counted in the last line."""
        stale = time.monotonic() - self._gathered_at > _FRESH_S
        if self._gathering is None or (self._gathering.done() and stale):
            self._gathering = asyncio.create_task(self._gather())
        return await asyncio.shield(self._gathering)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _gather(self) -> Page:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_NODE_TIMEOUT_S))
        urls = await asyncio.to_thread(self._endpoints)
        pages = await asyncio.gather(*(self._fetch(self._session, url) for url in urls))
        page = await asyncio.to_thread(_page_of, pages)
        self._gathered_at = time.monotonic()
        return page

    @staticmethod
    async def _fetch(session: aiohttp.ClientSession, url: str) -> str | None:
        try:
            async with session.get(url) as response:
                return await response.text() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None


def _page_of(pages: Sequence[str | None]) -> Page:
    told = f"# {pages.count(None)} of {len(pages)} nodes did not answer\n"
    plain = (merge(page for page in pages if page is not None) + told).encode()
    return Page(plain, gzip.compress(plain, _GZIP_LEVEL, mtime=0))
