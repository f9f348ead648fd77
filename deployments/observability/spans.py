"""Spans of requests, as rooms see them. Knows neither Ray nor OpenTelemetry; `otlp.py` makes spans that are recorded.

A request's span is begun by the ingress, from the client's `traceparent` where it sent one. What a stage needs to go on
with the trace travels beside its metadata, and the stage's own process records the stage's span. While tracing is off
there is one span, which does nothing, and nothing travels.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol

Fact = str | int | float | bool
Carrier = Mapping[str, str]
"""`traceparent` and, where there is one, `tracestate`, as the W3C words them."""

_carrier: ContextVar[Carrier | None] = ContextVar("trace", default=None)


class Span(Protocol):
    """One piece of work, recorded or not. Ended once, by whoever began it."""

    @property
    def carrier(self) -> Carrier | None:
        """What others need to go on with this trace; None when it is not recorded."""
        ...

    @property
    def traceparent(self) -> str | None:
        """What the client is told; None while tracing is off."""
        ...

    def note(self, facts: Mapping[str, Fact]) -> None:
        """Attributes by name."""
        ...

    def phase(self, name: str, seconds: float, ended_ago_s: float = 0.0) -> None:
        """A part of the work that is over and took `seconds`: a span below this one."""
        ...

    def fail(self, code: str) -> None: ...

    def end(self, name: str | None = None) -> None:
        """`name`: a better one than what was known when it began."""
        ...


class Tracer(Protocol):
    """Begins spans. One for a process."""

    def begin(self, name: str, carrier: Carrier, kind: Literal["server", "internal"] = "internal") -> Span:
        """A span below the one that `carrier` names, or the first of a new trace when it names none."""
        ...

    def close(self) -> None:
        """Hand out what is still held; blocks for a moment."""
        ...


class NoSpan:
    carrier = None
    traceparent = None

    def note(self, facts: Mapping[str, Fact]) -> None: ...

    def phase(self, name: str, seconds: float, ended_ago_s: float = 0.0) -> None: ...

    def fail(self, code: str) -> None: ...

    def end(self, name: str | None = None) -> None: ...


class NoTracer:
    def begin(self, name: str, carrier: Carrier, kind: Literal["server", "internal"] = "internal") -> Span:
        return NO_SPAN

    def close(self) -> None: ...


NO_SPAN = NoSpan()
NO_TRACER = NoTracer()


@contextmanager
def within(span: Span) -> Iterator[None]:
    """What is called in this block, and in tasks that it starts, belongs to `span`."""
    token = _carrier.set(span.carrier)
    try:
        yield
    finally:
        _carrier.reset(token)


def current_carrier() -> Carrier | None:
    """What a stage that is called now has to be told; None when the request is not traced."""
    return _carrier.get()
