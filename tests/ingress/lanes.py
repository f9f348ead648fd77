"""A lane whose clock is moved by hand, and requests to it."""

import asyncio
from collections.abc import Awaitable

from deployments.core.deadline import Deadline
from deployments.ingress.admission.lane import AdmissionQueue, QueueLimits
from deployments.ingress.admission.lease import Lease
from deployments.ingress.admission.media_budget import MediaBudget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_lane(
    running: int = 1,
    waiting: int = 8,
    max_bytes: int = 100,
    wait_s: float = 60.0,
    per_client: int | None = None,
    target_s: float | None = None,
    burst_s: float = 0.0,
    max_ttft_s: float | None = None,
) -> tuple[AdmissionQueue, Clock]:
    clock = Clock()
    return AdmissionQueue(
        "test",
        QueueLimits(running, waiting, wait_s, burst_s, per_client, target_s, max_ttft_s),
        MediaBudget(max_bytes),
        clock,
    ), clock


def ask(lane: AdmissionQueue, client: str = "a", size: int = 0, seconds: float = 60.0) -> "asyncio.Task[Lease]":
    return asyncio.create_task(lane.acquire(client, size, Deadline(seconds, "admission")))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def granted(work: Awaitable[Lease]) -> Lease:
    async with asyncio.timeout(5):
        return await work
