"""How long the event loop is away: `/health` can't answer sooner than this. Keeps gauges fresh on the way.

A pause has two causes. Either work held the loop: a callback, or many in a row, which is this application's to mend. Or
the loop's thread was ready and had no core, which is the machine's. The thread's CPU time tells them apart.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from deployments.observability.metrics import MetricSink

TICK_S = 0.01
REPORT_S = 1.0
KEPT_REPORTS = 10


async def watch_loop_lag(metrics: MetricSink, report: Callable[[], None]) -> None:
    """Once a second, until cancelled: set the gauges to the longest pauses of the last ten seconds, call `report`."""
    pauses_s: deque[float] = deque(maxlen=KEPT_REPORTS)
    held_s: deque[float] = deque(maxlen=KEPT_REPORTS)
    while True:
        pause_s, work_s = await _longest_pauses(REPORT_S)
        pauses_s.append(pause_s)
        held_s.append(work_s)
        metrics.gauge("sluice_loop_lag_seconds", max(pauses_s))
        metrics.gauge("sluice_loop_held_seconds", max(held_s))
        report()


async def _longest_pauses(period_s: float) -> tuple[float, float]:
    """The longest pause of the next `period_s`, and the longest that the loop's own work can have made.

    Of the work between two looks, up to a tick was done before the pause began: the second figure is no smaller than
    the truth.
    """
    longest_s = longest_held_s = 0.0
    now, work_s = time.monotonic(), time.thread_time()
    ends_at = now + period_s
    while (before := now) < ends_at:
        worked_before_s = work_s
        await asyncio.sleep(TICK_S)
        now, work_s = time.monotonic(), time.thread_time()
        pause_s = now - before - TICK_S
        longest_s = max(longest_s, pause_s)
        longest_held_s = max(longest_held_s, min(pause_s, work_s - worked_before_s))
    return longest_s, longest_held_s
