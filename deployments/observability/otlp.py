"""Spans that are recorded by OpenTelemetry's SDK and sent to a collector over OTLP/HTTP.

Imported only when tracing is on. A provider of its own, not OpenTelemetry's global one: Ray has that for itself.
"""

import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Literal

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as OtelTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from deployments.config import TracingConfig
from deployments.observability.spans import Carrier, Fact, Span

SEND_EVERY_MS = 1000
CLOSE_WITHIN_S = 2.0
NS = 1_000_000_000

_KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL}
_propagator = TraceContextTextMapPropagator()


def otlp_tracer(config: TracingConfig, replica: Mapping[str, Fact]) -> "OtlpTracer":
    """A tracer that sends to the configured endpoint; headers and certificates are OpenTelemetry's own variables'."""
    assert config.otlp_endpoint is not None
    return OtlpTracer(config, OTLPSpanExporter(f"{config.otlp_endpoint.rstrip('/')}/v1/traces"), replica)


class OtlpTracer:
    """Sampled spans are sent from a thread of the exporter's; what a slow collector leaves waiting is bounded."""

    def __init__(self, config: TracingConfig, exporter: SpanExporter, replica: Mapping[str, Fact]) -> None:
        own: dict[str, Fact] = {"service.name": config.service_name}
        own |= {"process.pid": os.getpid(), "host.name": socket.gethostname()}
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(config.sample_share)),
            resource=Resource.create({**own, **replica}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=SEND_EVERY_MS))
        self._tracer = self._provider.get_tracer("sluice")

    def begin(self, name: str, carrier: Carrier, kind: Literal["server", "internal"] = "internal") -> Span:
        above = _propagator.extract(carrier, Context())
        return OtlpSpan(self._tracer, self._tracer.start_span(name, above, _KINDS[kind]))

    def close(self) -> None:
        # A collector that does not answer would hold a replica's end up for as long as the exporter tries.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_WITHIN_S)


class OtlpSpan:
    def __init__(self, tracer: OtelTracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span, Context())
        self._headers: dict[str, str] = {}
        _propagator.inject(self._headers, self._context)

    @property
    def carrier(self) -> Carrier | None:
        return self._headers if self._span.is_recording() else None

    @property
    def traceparent(self) -> str | None:
        return self._headers["traceparent"]

    def note(self, facts: Mapping[str, Fact]) -> None:
        self._span.set_attributes(facts)

    def phase(self, name: str, seconds: float, ended_ago_s: float = 0.0) -> None:
        ended_at = time.time_ns() - int(ended_ago_s * NS)
        span = self._tracer.start_span(name, self._context, start_time=ended_at - int(seconds * NS))
        span.end(ended_at)

    def fail(self, code: str) -> None:
        self._span.set_attribute("error.type", code)
        self._span.set_status(StatusCode.ERROR, code)

    def end(self, name: str | None = None) -> None:
        if name is not None:
            self._span.update_name(name)
        self._span.end()
