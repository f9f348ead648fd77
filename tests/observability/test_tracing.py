"""What a trace says, who decides whether there is one, and that nothing of it is left while it is off."""

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import ValidationError

from deployments.config import TracingConfig
from deployments.errors import MediaHostError
from deployments.observability.otlp import OtlpTracer
from deployments.observability.spans import NO_TRACER
from deployments.observability.tracing import check_packages, open_tracer
from tests.http import parts
from tests.support.fakes import FakeApplication

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
ON = TracingConfig(otlp_endpoint="http://127.0.0.1:4318")
PICTURE = parts.image(b"not looked at")


class Traced:
    """The API over fake stages, and what it recorded."""

    def __init__(self, config: TracingConfig = ON) -> None:
        self._exporter = InMemorySpanExporter()
        self._tracer = OtlpTracer(config, self._exporter, {"service.instance.id": "r1"})
        self.app = FakeApplication(tracer=self._tracer)

    def spans(self) -> Sequence[ReadableSpan]:
        """In the order in which they ended. Nothing is recorded afterwards."""
        self._tracer.close()
        return self._exporter.get_finished_spans()


async def test_the_clients_trace_goes_on_and_its_answer_says_where() -> None:
    traced = Traced()
    response = await traced.app.chat([PICTURE], headers={"traceparent": SAMPLED, "tracestate": "vendor=1"})
    root = traced.spans()[-1]
    assert root.context is not None
    assert root.parent is not None
    assert f"{root.context.trace_id:032x}" == TRACE
    assert f"{root.parent.span_id:016x}" == PARENT
    here = f"00-{TRACE}-{root.context.span_id:016x}-01"
    assert response.headers["traceparent"] == response.headers["traceresponse"] == here
    told = [call.carrier for stage in (traced.app.fetcher, traced.app.model) for call in stage.calls]
    assert told == [{"traceparent": here, "tracestate": "vendor=1"}] * 2


async def test_a_request_without_a_trace_begins_one() -> None:
    traced = Traced()
    first = (await traced.app.chat("hi")).headers["traceparent"]
    second = (await traced.app.chat("hi")).headers["traceparent"]
    assert first.split("-")[1] != second.split("-")[1]
    assert [span.name for span in traced.spans()] == ["admission", "POST /v1/chat/completions"] * 2


@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + f"-{PARENT}-01", SAMPLED + "-more", "é" * 55])
async def test_a_malformed_traceparent_is_as_good_as_none(header: str) -> None:
    traced = Traced()
    response = await traced.app.chat("hi", headers={"traceparent": header.encode("latin-1")})
    assert response.status_code == 200
    assert traced.spans()[-1].parent is None


@pytest.mark.parametrize(("header", "share"), [(UNSAMPLED, 1.0), (None, 0.0)])
async def test_what_is_not_sampled_is_not_recorded_and_stages_hear_nothing_of_it(
    header: str | None, share: float
) -> None:
    traced = Traced(TracingConfig(otlp_endpoint=ON.otlp_endpoint, sample_share=share))
    response = await traced.app.chat("hi", headers={"traceparent": header} if header else {})
    flags = int(response.headers["traceparent"].split("-")[3], 16)
    assert not flags & 1  # the bit that says "sampled"
    assert traced.app.model.calls[-1].carrier is None
    assert not traced.spans()


async def test_while_tracing_is_off_nothing_is_said_and_nothing_travels() -> None:
    assert open_tracer(TracingConfig(), {}) is NO_TRACER
    app = FakeApplication()
    response = await app.chat("hi", headers={"traceparent": SAMPLED})
    assert not {"traceparent", "traceresponse"} & set(response.headers)
    assert app.model.calls[-1].carrier is None


async def test_the_requests_span_has_its_result_and_nothing_that_identifies_the_client() -> None:
    traced = Traced()
    await traced.app.chat([PICTURE, parts.text("a secret")], headers={"x-request-id": "abc"})
    root = traced.spans()[-1]
    assert dict(root.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "sluice.request_id": "abc",
        "sluice.items": 1,
        "sluice.stream": False,
        "gen_ai.request.model": "demo",
        "gen_ai.usage.input_tokens": 15,
        "gen_ai.usage.output_tokens": 3,
    }


async def test_only_what_is_our_fault_is_an_error_of_the_span() -> None:
    traced = Traced()
    await traced.app.chat("hi", top_p=7)

    def unreachable(item: object) -> tuple[object, object]:
        raise MediaHostError("the host answers 503")

    traced.app.fetcher.answers["fetch"] = unreachable
    await traced.app.chat([PICTURE])
    clients, ours = (span for span in traced.spans() if span.name.startswith("POST"))
    assert clients.status.is_unset
    assert (clients.attributes or {})["error.type"] == "invalid_request"
    assert not ours.status.is_ok
    assert (ours.attributes or {})["error.type"] == "media_host_error"


async def test_health_and_metrics_are_never_traced() -> None:
    traced = Traced()
    async with traced.app.client() as client:
        for path in ("/health", "/ready", "/metrics", "/"):
            assert "traceparent" not in (await client.get(path, headers={"traceparent": SAMPLED})).headers
    assert not traced.spans()


async def test_a_collector_that_never_answers_holds_nobody_up() -> None:
    never = threading.Event()

    class Stuck(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            never.wait()
            return super().export(spans)

    tracer = OtlpTracer(ON, Stuck(), {})
    app = FakeApplication(tracer=tracer)
    assert [(await app.chat("hi")).status_code for _ in range(3)] == [200] * 3
    tracer.close()
    assert not never.is_set()
    never.set()


@pytest.mark.parametrize("url", ["collector:4318", "ftp://collector", "http://user:secret@collector", "http://a b"])
def test_an_endpoint_that_is_no_base_url_stops_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="not the base URL"):
        TracingConfig(otlp_endpoint=url)


def test_missing_packages_stop_the_start_and_say_what_to_install() -> None:
    with pytest.raises(RuntimeError, match=r"pip install 'sluice\[tracing\]'"):
        check_packages(ON, "no_such_package")
    check_packages(TracingConfig(), "no_such_package")
