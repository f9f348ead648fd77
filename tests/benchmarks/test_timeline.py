"""What a request's notes are made of."""

import json
from pathlib import Path

import pytest

from benchmarks.kit.timeline import Event, model_phases, parts_of, read_trace

VIDEO = [
    ("ingress.entered", 1.0, None),
    ("ingress.has_body", 2.0, None),
    ("put.begins", 2.5, 1000),
    ("put.ends", 3.0, None),
    ("fetch.sent", 3.1, None),
    ("fetch.entered", 4.0, None),
    ("fetch.answers", 6.0, 1.5),
    ("fetch.received", 6.5, None),
    ("model.sent", 7.0, None),
    ("model.entered", 7.5, None),
    ("model.answers", 8.0, None),
    ("model.received", 8.2, None),
    ("model.answers", 9.5, {"queue_s": 0.4, "encode_s": 0.6, "prefill_s": 0.5, "decode_s": 0.5}),
    ("model.received", 9.75, None),
    ("ingress.left", 10.0, None),
]
EVENTS = [Event(*event) for event in VIDEO]


def test_parts_add_up_to_the_latency():
    assert sum(parts_of(0.25, 11.0, EVENTS).values()) == pytest.approx(10.75)


def test_a_stage_time_is_its_own_work_its_waiting_and_two_hand_offs():
    parts = parts_of(0.25, 11.0, EVENTS)
    assert parts["MediaFetcher", "own work"] == pytest.approx(1.5)
    assert parts["MediaFetcher", "waiting"] == pytest.approx(0.5)
    assert parts["MediaFetcher", "hand-off in"] == pytest.approx(0.9)
    assert parts["MediaFetcher", "hand-off out"] == pytest.approx(0.5)


def test_pieces_of_a_stream_do_not_end_the_model_time():
    parts = parts_of(0.25, 11.0, EVENTS)
    assert parts["Model", "own work"] == pytest.approx(1.6)
    assert parts["Model", "waiting"] == pytest.approx(0.4)
    assert parts["Model", "hand-off out"] == pytest.approx(0.25)


def test_copies_into_shared_memory_are_hand_offs_and_the_rest_of_the_ingress_is_its_own():
    parts = parts_of(0.25, 11.0, EVENTS)
    assert parts["Ingress", "hand-off out"] == pytest.approx(0.5)
    assert parts["Ingress", "own work"] == pytest.approx(1.0 + 0.5 + 0.1 + 0.5 + 0.25)
    assert parts["HTTP", "own work"] == pytest.approx(0.75 + 1.0)


def test_the_model_tells_its_phases_with_its_last_piece():
    assert model_phases(EVENTS) == {"queue": 0.4, "encode": 0.6, "prefill": 0.5, "decode": 0.5}


def test_a_trace_is_read_by_request_in_the_order_of_time(tmp_path: Path):
    lines = [["a", "late", 2.0, None], ["b", "other", 1.5, 7], ["a", "early", 1.0, None]]
    path = tmp_path / "trace"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = read_trace(path)
    assert [event.name for event in events["a"]] == ["early", "late"]
    assert events["b"] == [Event("other", 1.5, 7)]
