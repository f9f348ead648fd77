"""`/health`, asked ten times a second on a connection of its own, whatever the load does."""

import asyncio
import time

import aiohttp

from benchmarks.kit.load.outcome import Probe

INTERVAL_S = 0.1
TIMEOUT_S = 30.0


async def probe_health(url: str, started: float, probes: list[Probe], stop: asyncio.Event) -> None:
    """Append to `probes` until `stop`, then wait for the last answers. A question never waits for an earlier one's."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as asked:
        due = time.perf_counter()
        while not stop.is_set():
            asked.create_task(_probe(session, f"{url}/health", started, probes))
            due += INTERVAL_S
            await asyncio.sleep(due - time.perf_counter())


async def _probe(session: aiohttp.ClientSession, url: str, started: float, probes: list[Probe]) -> None:
    sent = time.perf_counter()
    try:
        async with session.get(url) as response:
            await response.read()
            ok = response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        ok = False
    probes.append(Probe(sent - started, time.perf_counter() - sent, ok))
