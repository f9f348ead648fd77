"""What `benchmarks.serving.costs` reads and sends; the servers that it starts are tested with the application."""

import json

from benchmarks.kit.load.workload import Workload, WorkloadSpec
from benchmarks.serving.costs import Step, request_body


def test_a_step_names_a_revision_and_settings():
    assert Step.parse("as it stands") == Step("as it stands", None, ())
    assert Step.parse("before=1a2b3c") == Step("before", "1a2b3c", ())
    assert Step.parse("HAProxy=1a2b3c,A=1,B=x=y") == Step("HAProxy", "1a2b3c", (("A", "1"), ("B", "x=y")))
    laid_over = {"placement": "together", "decoder": {"workers": 3}}
    assert Step.parse("two,placement=together,decoder.workers=3") == Step("two", None, (), laid_over)


def test_the_same_request_is_sent_streamed_and_whole():
    streamed = Workload(WorkloadSpec("text"), "demo").next().body
    asked, whole = json.loads(request_body(streamed, stream=True)), json.loads(request_body(streamed, stream=False))
    assert asked.pop("stream") is True
    assert asked.pop("stream_options") == {"include_usage": True}
    assert whole == asked
