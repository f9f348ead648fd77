"""`/metrics` for the whole application: what every node's Ray agent exports, reduced to what concerns serving.

Each replica reports to the agent of its node, which exports Prometheus text. One replica's own view would be a part of
the truth, so the page is gathered from all nodes, and merged family by family as the format demands.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Sequence

import aiohttp

FAMILIES = ("ray_sluice_", "ray_serve_", "ray_object_store_", "ray_spill_manager_")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NOISE = re.compile(r'(?:otel_scope_\w+|SessionName|Version|Component)="[^"]*",?')
_NODE_TIMEOUT_S = 2.0
_FRESH_S = 1.0


def merge(pages: Iterable[str]) -> str:
    """One page of Prometheus text out of several: families in `FAMILIES` only, each with a single HELP and TYPE.

    Labels of Ray's own bookkeeping are dropped; `NodeAddress` and `WorkerId` stay and keep series apart.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, dict[str, None]] = {}
    for page in pages:
        family = ""
        for line in page.splitlines():
            if line.startswith("# "):
                _, word, family = line.split(" ", 3)[:3]
                if family.startswith(FAMILIES):
                    head = heads.setdefault(family, [])
                    samples.setdefault(family, {})
                    if len(head) < 2 and not any(known.startswith(f"# {word} ") for known in head):
                        head.append(line)
            elif family.startswith(FAMILIES) and line.startswith(family):
                samples[family][_NOISE.sub("", line).replace(",}", "}")] = None
    lines = (line for family, head in heads.items() for line in (*head, *samples[family]))
    return "\n".join(lines) + "\n"


class ApplicationMetrics:
    """Gathers the page; at most once a second, whoever asks. `endpoints` lists the agents' URLs and may block."""

    def __init__(self, endpoints: Callable[[], Sequence[str]]) -> None:
        self._endpoints = endpoints
        self._session: aiohttp.ClientSession | None = None
        self._gathering: asyncio.Task[str] | None = None
        self._gathered_at = float("-inf")

    async def text(self) -> str:
        """Prometheus text. A node that does not answer in time is left out, and counted in the last line."""
        stale = time.monotonic() - self._gathered_at > _FRESH_S
        if self._gathering is None or (self._gathering.done() and stale):
            self._gathering = asyncio.create_task(self._gather())
        return await asyncio.shield(self._gathering)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _gather(self) -> str:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_NODE_TIMEOUT_S))
        urls = await asyncio.to_thread(self._endpoints)
        pages = await asyncio.gather(*(self._page(self._session, url) for url in urls))
        text = await asyncio.to_thread(merge, [page for page in pages if page is not None])
        self._gathered_at = time.monotonic()
        return text + f"# {pages.count(None)} of {len(pages)} nodes did not answer\n"

    @staticmethod
    async def _page(session: aiohttp.ClientSession, url: str) -> str | None:
        try:
            async with session.get(url) as response:
                return await response.text() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None
