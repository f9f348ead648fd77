"""The served application's traces, as a collector gets them: one tree, a span a stage, made where the work was."""

import httpx

from tests.http import parts
from tests.observed.conftest import KEY, Observed
from tests.support.media_files import make_picture, make_sound, make_video
from tests.support.media_server import serve
from tests.support.otlp_collector import ReceivedSpan

CLIENT = "b7ad6b7169203331"
STAGE_OF = {
    "POST /v1/chat/completions": "Ingress",
    "admission": "Ingress",
    "MediaFetcher.fetch": "MediaFetcher",
    "VideoDecoder.decode": "VideoDecoder",
    "Preprocessor.prepare": "Preprocessor",
    "Model.generate": "Model",
    "queue": "Model",
    "encode": "Model",
    "prefill": "Model",
    "decode": "Model",
}
SKEW_NS = 2_000_000
"""Spans of phases are set back from the moment when they are told: they begin about where they began."""


def trace(number: int) -> tuple[str, dict[str, str]]:
    """A trace's id, and the headers of a request that belongs to it."""
    trace_id = f"0af7651916cd43dd8448eb21{number:08x}"
    return trace_id, {"traceparent": f"00-{trace_id}-{CLIENT}-01"}


def one_of_each(spans: list[ReceivedSpan]) -> bool:
    return {span.name for span in spans} >= set(STAGE_OF)


def test_every_stage_has_a_span_below_the_requests_own(observed: Observed) -> None:
    trace_id, headers = trace(1)
    clip = observed.media.add("/traces/clip.mp4", serve(make_video(30)))
    sound = parts.input_audio(make_sound("wav", seconds=1.0))
    messages = parts.user(parts.video(clip), parts.image(make_picture("PNG")), sound, "What is it?")
    response = observed.post(messages, headers)
    spans = observed.collector.wait(trace_id, one_of_each)
    named = {span.name: span for span in spans}
    root, generate = named["POST /v1/chat/completions"], named["Model.generate"]
    assert root.parent_id == CLIENT
    assert response.headers["traceparent"] == f"00-{trace_id}-{root.span_id}-01"
    assert sum(span.name == "MediaFetcher.fetch" for span in spans) == 3
    for span in spans:
        assert not span.failed
        assert span.resource["sluice.deployment"] == STAGE_OF.get(span.name, "Preprocessor")  # it is asked once more
        if span is not root:
            phase = span.name in {"queue", "encode", "prefill", "decode"}
            above = generate if phase else root
            assert span.parent_id == above.span_id, span.name
            assert above.begin_ns - SKEW_NS <= span.begin_ns <= span.end_ns <= above.end_ns + SKEW_NS, span.name


def test_spans_say_which_replica_did_the_work_and_how_much_it_was(observed: Observed) -> None:
    trace_id, headers = trace(2)
    observed.post(parts.user(parts.video(parts.data_url(make_video(30), "video/mp4")), "?"), headers, num_frames=4)
    named = {span.name: span for span in observed.collector.wait(trace_id, one_of_each)}
    replicas = {span.resource["service.instance.id"] for span in named.values()}
    processes = {span.resource["process.pid"] for span in named.values()}
    assert len(replicas) == len(processes) == 5
    assert {span.resource["service.name"] for span in named.values()} == {"sluice"}
    assert named["MediaFetcher.fetch"].attributes["sluice.kind"] == "video"
    assert named["VideoDecoder.decode"].attributes["sluice.frames"] == 4
    assert named["Preprocessor.prepare"].attributes["sluice.video_tokens"] > 0
    assert named["POST /v1/chat/completions"].attributes["gen_ai.usage.output_tokens"] > 0


def test_the_span_of_the_stage_that_refused_says_why(observed: Observed) -> None:
    trace_id, headers = trace(3)
    clip = make_video(30)
    broken = parts.video(parts.data_url(clip[: len(clip) // 4], "video/mp4"))
    assert observed.post(parts.user(broken, "?"), headers).status_code == 400
    spans = observed.collector.wait(trace_id, lambda spans: any(s.name.startswith("POST") for s in spans))
    spans = observed.collector.wait(trace_id, lambda spans: any(s.failed for s in spans))
    (failed,) = (span for span in spans if span.failed)
    assert (failed.name, failed.attributes["error.type"]) == ("VideoDecoder.decode", "invalid_media")
    root = next(span for span in spans if span.name.startswith("POST"))
    assert root.attributes["http.response.status_code"] == 400
    assert root.attributes["error.type"] == "invalid_media"


def test_a_client_that_leaves_leaves_a_cancelled_span(observed: Observed) -> None:
    trace_id, headers = trace(4)
    body = {"model": "demo", "messages": parts.user("Count."), "max_tokens": 900, "ignore_eos": True, "stream": True}
    headers |= {"authorization": f"Bearer {KEY}"}
    with (
        httpx.Client(base_url=observed.server.url, timeout=60) as leaving,
        leaving.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        next(line for line in answer.iter_lines() if line.startswith("data: "))
    spans = observed.collector.wait(trace_id, lambda spans: any(s.name == "Model.generate" for s in spans))
    generate = next(span for span in spans if span.name == "Model.generate")
    assert (generate.failed, generate.attributes["error.type"]) == (True, "cancelled")


def test_media_hosts_hear_nothing_of_the_trace(observed: Observed) -> None:
    trace_id, headers = trace(5)
    url = observed.media.add("/traces/picture.png", make_picture("PNG"))
    assert observed.post(parts.user(parts.image(url), "?"), headers | {"tracestate": "vendor=1"}).status_code == 200
    (hit,) = (hit for hit in observed.media.hits_seen if hit.path == "/traces/picture.png")
    assert not {"traceparent", "tracestate"} & set(hit.headers)
    assert trace_id not in str(hit.headers)


def test_what_the_client_does_not_want_traced_is_not(observed: Observed) -> None:
    trace_id, headers = trace(6)
    unsampled = {"traceparent": headers["traceparent"].removesuffix("01") + "00"}
    assert observed.post(parts.user("hi"), unsampled).headers["traceparent"].endswith("-00")
    later, headers = trace(7)
    observed.post(parts.user("hi"), headers)
    observed.collector.wait(later, lambda spans: any(s.name == "Model.generate" for s in spans))
    assert observed.collector.of_trace(trace_id) == []
