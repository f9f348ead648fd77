"""One line of JSON for each request that mattered: id, status, times by stage. Payloads never come here."""

import logging

import orjson

from deployments.ingress.exchange import Exchange

logger = logging.getLogger("sluice.access")


def log_exchange(exchange: Exchange, route: str) -> None:
    line = {
        "id": exchange.id,
        "method": exchange.scope["method"],
        "route": route,
        "status": exchange.status,
        "seconds": round(exchange.elapsed_s, 4),
        "stages_ms": exchange.timings.milliseconds(),
        **exchange.facts,
    }
    logger.info(orjson.dumps(line, default=str).decode())


def log_defect(exchange: Exchange, error: BaseException) -> None:
    """An error that nobody raised on purpose, with its traceback."""
    logger.error("request %s failed", exchange.id, exc_info=error)
