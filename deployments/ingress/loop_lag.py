"""How long the event loop is away: `/health` can't answer sooner than this. Keeps gauges fresh on the way."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from deployments.metrics import MetricSink

TICK_S = 0.02
REPORT_S = 1.0
KEPT_REPORTS = 10


async def watch_loop_lag(metrics: MetricSink, report: Callable[[], None]) -> None:
    """Once a second, until cancelled: set the gauge to the longest pause of the last ten seconds, call `report`."""
    pauses_s: deque[float] = deque(maxlen=KEPT_REPORTS)
    while True:
        longest_s, ends_at = 0.0, time.monotonic() + REPORT_S
        while (before := time.monotonic()) < ends_at:
            await asyncio.sleep(TICK_S)
            longest_s = max(longest_s, time.monotonic() - before - TICK_S)
        pauses_s.append(longest_s)
        metrics.gauge("sluice_loop_lag_seconds", max(pauses_s))
        report()
