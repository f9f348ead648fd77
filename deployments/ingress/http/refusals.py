"""Refusals of an overload, told by the second: far more are refused then than answered, and none of them may cost much.

The first few of a second have a line in the log each, as every other request has; of the rest one line says how many
they were. The counters get them all.
"""

import logging
import time
from collections import Counter

import orjson

from deployments.ingress.http.access_log import GONE, log_exchange, said_at
from deployments.ingress.http.exchange import Exchange
from deployments.observability.metrics import MetricSink

LINES = 5
"""In the log, between two reports."""

logger = logging.getLogger("sluice.access")


class Refusals:
    """Those since the last report."""

    def __init__(self, metrics: MetricSink) -> None:
        self._metrics = metrics
        self._counts: Counter[tuple[str, int, str]] = Counter()

    def add(self, exchange: Exchange, route: str, reason: str) -> None:
        """`exchange` was refused, with its status, for want of room."""
        if self._counts.total() < LINES:
            log_exchange(exchange, route)
        self._counts[route, exchange.status or GONE, reason] += 1

    def report(self) -> None:
        """Called each second."""
        if not self._counts:
            return
        for (route, status, reason), count in self._counts.items():
            self._metrics.count("sluice_refused", count, reason=reason)
            self._metrics.count("sluice_requests", count, route=route, status=str(status))
        untold = self._counts.total() - LINES
        if untold > 0:
            line = {"time": said_at(time.time()), "message": f"{untold} more requests were refused within a second"}
            logger.info(orjson.dumps(line).decode())
        self._counts.clear()
