"""What is kept of a request that mattered: one line of JSON, and its span. Payloads never come here."""

import logging
import sys
import time
from datetime import UTC, datetime

import orjson

from deployments.ingress.http.exchange import Exchange
from deployments.observability.spans import NO_SPAN

logger = logging.getLogger("sluice.access")

GONE = 499
"""In place of a status, of a request whose client left before the answer began."""
SPAN_FACTS = {
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "items": "sluice.items",
    "stream": "sluice.stream",
}
"""Facts of an exchange that its span shows, and under which name."""


class JsonLines(logging.Formatter):
    """Every record as one line of JSON; a request's own line is one already."""

    def format(self, record: logging.LogRecord) -> str:
        said = record.getMessage()
        if record.name == logger.name and record.exc_info is None:
            return said
        line = {"time": said_at(record.created), "level": record.levelname.lower(), "message": said}
        if record.exc_info is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def log_to_stdout() -> None:
    """The lines of this process's requests go to its standard output, past Ray's own format."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    ours = logging.getLogger("sluice")
    ours.handlers[:] = [handler]
    ours.setLevel(logging.INFO)
    ours.propagate = False


def log_exchange(exchange: Exchange, route: str) -> None:
    line = {
        "time": said_at(time.time() - exchange.elapsed_s),
        "id": exchange.id,
        "method": exchange.scope["method"],
        "route": route,
        "status": exchange.status,
        "seconds": round(exchange.elapsed_s, 4),
        **({} if exchange.model is None else {"model": exchange.model}),
        "stages_ms": exchange.timings.milliseconds(),
        **exchange.facts,
    }
    if exchange.span.traceparent is not None:
        line["trace_id"] = exchange.span.traceparent.split("-")[1]
    logger.info(orjson.dumps(line, default=str).decode())


def end_span(exchange: Exchange, route: str) -> None:
    """Named and attributed as OpenTelemetry's conventions for HTTP servers and generative models have it."""
    if exchange.span is NO_SPAN:
        return
    span, facts, status = exchange.span, exchange.facts, exchange.status or GONE
    method = exchange.scope["method"]
    span.note({"http.request.method": method, "http.route": route, "http.response.status_code": status})
    span.note({"sluice.request_id": exchange.id})
    if exchange.model is not None:
        span.note({"gen_ai.request.model": exchange.model})
    span.note({name: facts[fact] for fact, name in SPAN_FACTS.items() if fact in facts})
    if status >= 500:
        span.fail(facts.get("error", str(status)))
    elif "error" in facts:
        span.note({"error.type": facts["error"]})
    span.end(f"{method} {route}")


def log_defect(exchange: Exchange, error: BaseException) -> None:
    """An error that nobody raised on purpose, with its traceback."""
    logger.error("request %s failed", exchange.id, exc_info=error)


def said_at(seconds: float) -> str:
    """An instant as the log words it; `seconds` since 1970."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
