"""One run of load against one server, in a process of its own so that its work does not count as anyone else's."""

import asyncio
import contextlib
import gc
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import uvloop
from tqdm import tqdm

from benchmarks.kit.harness import in_subprocess
from benchmarks.kit.load.arrivals import Arrivals, Burst, ClosedLoop, OpenLoop
from benchmarks.kit.load.client import ChatClient
from benchmarks.kit.load.host import MediaHost
from benchmarks.kit.load.outcome import Outcome, Probe, Slo, summary
from benchmarks.kit.load.probe import probe_health
from benchmarks.kit.load.workload import Workload, WorkloadSpec

PAUSE_AFTER_FAILURE_S = 0.5
"""Of a closed loop's user who is not told how long to wait: asking again at once would be another kind of load."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What one run does."""

    url: str
    arrivals: Arrivals
    workload: WorkloadSpec = field(default_factory=WorkloadSpec)
    timeout_s: float = 30.0
    """After this long a client gives up, counted from sending."""
    slo: Slo = field(default_factory=Slo)
    model: str | None = None
    """Default: the first one of `/v1/models`."""
    addresses: tuple[str, ...] = ()
    """From which the requests come in turn, as a proxy says it in `x-forwarded-for`."""
    says_done: bool = True
    """Whether the server ends its streams with `[DONE]`, as OpenAI's does: one without it is then a truncated one."""
    first_request: int = 0
    """Number of the first request: runs against one server that share a workload start where the last one ended."""
    label: str = "load"


def run_load(plan: LoadPlan) -> dict[str, Any]:
    """`outcome.summary` of the run, made in a fresh process, and that process's `client_cpu_s`."""
    figures, _ = in_subprocess(_run, plan)
    return figures


def _run(plan: LoadPlan) -> dict[str, Any]:
    began_s = time.process_time()
    outcomes, probes = uvloop.run(drive(plan))
    client_cpu_s = time.process_time() - began_s
    return summary(outcomes, probes, plan.slo, plan.arrivals.duration_s) | {"client_cpu_s": client_cpu_s}


async def drive(plan: LoadPlan) -> tuple[list[Outcome], list[Probe]]:
    """Make the media, send the requests, wait for the last answer."""
    with contextlib.ExitStack() as stack:
        url_maker = stack.enter_context(MediaHost()).add if plan.workload.transport == "url" else None
        async with client_session() as session:
            model = plan.model or await served_model(session, plan.url)
            workload = Workload(plan.workload, model, url_maker, plan.first_request)
            gc.freeze()  # what exists by now stays: no collection walks over it while latencies are taken
            probes: list[Probe] = []
            started = time.perf_counter()
            stop = asyncio.Event()
            probing = asyncio.create_task(probe_health(plan.url, started, probes, stop))
            addresses = itertools.cycle(plan.addresses)
            client = ChatClient(session, plan.url, started, plan.timeout_s, addresses, plan.says_done)
            try:
                outcomes = await _send_all(plan, workload, client)
            finally:
                stop.set()
                await probing
    return outcomes, probes


async def served_model(session: aiohttp.ClientSession, url: str) -> str:
    """The name that the server gives its (first) model."""
    async with session.get(f"{url}/v1/models") as response:
        response.raise_for_status()
        return str(orjson.loads(await response.read())["data"][0]["id"])


@contextlib.asynccontextmanager
async def client_session() -> AsyncIterator[aiohttp.ClientSession]:
    """As many connections as there are requests under way."""
    # Servers close idle connections after 5 s at the earliest: this side must do so first, or requests are lost.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        yield session


async def _send_all(plan: LoadPlan, workload: Workload, client: ChatClient) -> list[Outcome]:
    if isinstance(plan.arrivals, ClosedLoop):
        return await _closed_loop(plan.arrivals, workload, client, plan.label)
    return await _open_loop(plan.arrivals, workload, client, plan)


async def _open_loop(
    arrivals: OpenLoop | Burst, workload: Workload, client: ChatClient, plan: LoadPlan
) -> list[Outcome]:
    asked: list[asyncio.Task[Outcome]] = []
    instants = list(arrivals.due_s(plan.workload.seed))
    with tqdm(total=len(instants), desc=plan.label, disable=None, leave=False) as bar:
        for due_s in instants:
            request = workload.next()
            await asyncio.sleep(client.started + due_s - time.perf_counter())
            task = asyncio.create_task(client.ask(request, due_s))
            task.add_done_callback(lambda _: bar.update())
            asked.append(task)
        return await asyncio.gather(*asked)


async def _closed_loop(arrivals: ClosedLoop, workload: Workload, client: ChatClient, label: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with tqdm(desc=label, disable=None, leave=False) as bar:

        async def user() -> None:
            while client.now_s() < arrivals.duration_s:
                request, due_s = workload.next(), client.now_s()
                again = True
                while again:
                    outcome = await client.ask(request, due_s)
                    outcomes.append(outcome)
                    bar.update()
                    left_s = arrivals.duration_s - client.now_s()
                    await asyncio.sleep(min(_pause_s(outcome), left_s))
                    again = outcome.verdict == "refused" and client.now_s() < arrivals.duration_s

        await asyncio.gather(*(user() for _ in range(arrivals.concurrency)))
    return outcomes


def _pause_s(outcome: Outcome) -> float:
    """Of a user who got `outcome`: as long as the server asks for, as OpenAI's clients do."""
    if outcome.verdict == "answered":
        return 0.0
    try:
        return float(outcome.retry_after or PAUSE_AFTER_FAILURE_S)
    except ValueError:  # a date
        return PAUSE_AFTER_FAILURE_S
