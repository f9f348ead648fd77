"""Traces of requests, as rooms see them. Knows neither Ray nor OpenTelemetry; `otlp.py` makes spans that are recorded.

A request's span is begun by the ingress, from the client's `traceparent` where it sent one. What a stage needs to go on
with the trace travels beside its metadata, and the stage's own process records the stage's span. While tracing is off
there is one span, which does nothing, and nothing travels.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Literal, Protocol

from deployments.config import TracingConfig
from deployments.types import DecodedVideo, Fetched, GenerateChunk, GenerateTimes, Prepared

EXPORTER = "opentelemetry.exporter.otlp.proto.http"

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


def check_packages(config: TracingConfig, exporter: str = EXPORTER) -> None:
    """Raise `RuntimeError` when tracing is on and what it needs, `exporter`, is not installed."""
    if config.otlp_endpoint is not None and find_spec(exporter) is None:
        raise RuntimeError(
            "`tracing.otlp_endpoint` is set, but the packages for it are missing: pip install 'sluice[tracing]'"
        )


def open_tracer(config: TracingConfig, replica: Mapping[str, Fact]) -> Tracer:
    """The tracer of this process. `replica`: attributes that say whose it is. Raises as `check_packages`."""
    if config.otlp_endpoint is None:
        return NO_TRACER
    check_packages(config)
    from deployments.observability.otlp import (
        otlp_tracer,  # only where the packages are there, and only when they are used
    )

    return otlp_tracer(config, replica)


def describe(span: Span, value: object) -> None:
    """Note what a stage's answer says of the work: sizes and counts, never addresses, names or content."""
    match value:
        case Fetched():
            span.note({"sluice.kind": str(value.kind), "sluice.container": value.container})
            span.note({"sluice.bytes": value.size_bytes})
        case DecodedVideo():
            span.note({"sluice.frames": len(value.indices), "sluice.lost_frames": value.lost_frames})
            span.note({"sluice.source_frames": value.total_frames, "sluice.backend": value.backend})
        case Prepared():
            counts = value.counts
            by_modality = {"text": counts.text, "image": counts.image, "video": counts.video, "audio": counts.audio}
            span.note({f"sluice.{modality}_tokens": count for modality, count in by_modality.items()})
        case GenerateChunk(times=GenerateTimes() as times):
            _phases(span, times)


def _phases(span: Span, times: GenerateTimes) -> None:
    phases = {"queue": times.queue_s, "encode": times.encode_s, "prefill": times.prefill_s, "decode": times.decode_s}
    left_s = sum(phases.values())
    for name, seconds in phases.items():
        left_s -= seconds
        span.phase(name, seconds, left_s)
