"""The log of the running application: a line of JSON for each request, which names its stages' times and no content."""

import json
import time
from typing import Any

from tests.http import parts
from tests.observed.conftest import KEY, Observed
from tests.support.media_files import make_picture


def lines_of(observed: Observed, request_id: str) -> list[dict[str, Any]]:
    """The requests' lines with this id, out of everything that the server wrote."""
    text = observed.server.log.read_text(encoding="utf-8", errors="replace")
    lines = [line[line.index('{"time":') :].removesuffix("\x1b[0m") for line in text.splitlines() if '{"time":' in line]
    return [line for line in map(json.loads, lines) if line.get("id") == request_id]


def wait_for_line(observed: Observed, request_id: str) -> dict[str, Any]:
    for _ in range(100):
        if found := lines_of(observed, request_id):
            (line,) = found
            return line
        time.sleep(0.1)
    raise AssertionError("no line for this request")


def test_a_request_is_one_line_with_its_stages_times(observed: Observed) -> None:
    response = observed.post(
        parts.user(parts.image(make_picture("PNG")), "a private question"), {"x-request-id": "log-1"}
    )
    line = wait_for_line(observed, "log-1")
    assert response.headers["x-request-id"] == "log-1"
    assert (line["status"], line["route"], line["items"]) == (200, "/v1/chat/completions", 1)
    assert {"admission", "fetch", "preprocess", "queue", "encode", "prefill", "decode"} == set(line["stages_ms"])
    assert line["trace_id"] == response.headers["traceparent"].split("-")[1]


def test_a_refusal_is_one_line_with_its_reason(observed: Observed) -> None:
    observed.post(parts.user("hi"), {"x-request-id": "log-2", "authorization": "Bearer wrong"})
    line = wait_for_line(observed, "log-2")
    assert (line["status"], line["error"]) == (401, "invalid_api_key")


def test_neither_keys_nor_questions_nor_media_are_in_the_log(observed: Observed) -> None:
    picture = parts.data_url(make_picture("PNG"), "image/png")
    observed.post(parts.user(parts.image(picture), "a private question"), {"x-request-id": "log-3"})
    wait_for_line(observed, "log-3")
    text = observed.server.log.read_text(encoding="utf-8", errors="replace")
    assert KEY not in text
    assert "private question" not in text
    assert picture[30:90] not in text
