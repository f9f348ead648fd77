"""How long the event loop is away: `/health` can't answer sooner than this."""

import asyncio
import time

from deployments.metrics import MetricSink

TICK_S = 0.05
REPORT_S = 5.0


async def watch_loop_lag(metrics: MetricSink) -> None:
    """Report the longest pause of each `REPORT_S` seconds, until cancelled."""
    while True:
        longest_s, ends_at = 0.0, time.monotonic() + REPORT_S
        while (before := time.monotonic()) < ends_at:
            await asyncio.sleep(TICK_S)
            longest_s = max(longest_s, time.monotonic() - before - TICK_S)
        metrics.gauge("sluice_loop_lag_seconds", longest_s)
