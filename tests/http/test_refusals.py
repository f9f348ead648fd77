"""What a client gets wrong is said clearly: the status, the item, what is allowed; no payload comes back."""

import base64
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.http import parts
from tests.support.media_files import make_picture, make_video
from tests.support.media_server import MediaServer, stalled, status

ITEM = "messages[0].content[0]"


def ask(http: httpx.Client, *content: Any, **fields: Any) -> httpx.Response:
    body = {"model": "demo", "messages": parts.user(*content, "What is this?"), "max_tokens": 4, **fields}
    return http.post("/v1/chat/completions", json=body)


def refused(answer: httpx.Response, code: int) -> dict[str, Any]:
    """The error object of an answer that must have this status; checks OpenAI's shape."""
    assert answer.status_code == code, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) < 600
    assert answer.headers["x-request-id"]
    return error


def test_broken_json(http: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    error = refused(http.post("/v1/chat/completions", content=b'{"model": "demo", ', headers=headers), 400)
    assert error["type"] == "invalid_request_error"


def test_an_unknown_model(http: httpx.Client) -> None:
    error = refused(ask(http, "hello", model="gpt-9"), 404)
    assert error["code"] == "model_not_found"
    assert "demo" in error["message"]


def test_an_unknown_part(http: httpx.Client) -> None:
    error = refused(ask(http, {"type": "hologram", "hologram": "x"}), 400)
    assert "hologram" in error["message"]
    assert error["param"].startswith(ITEM)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("best_of", 4),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("use_beam_search", True),
        ("frobnicate", True),
    ],
)
def test_fields_that_would_change_the_answer_are_refused_by_name(http: httpx.Client, field: str, value: Any) -> None:
    assert field in refused(ask(http, "hello", **{field: value}), 400)["message"]


def test_harmless_fields_are_accepted(http: httpx.Client) -> None:
    assert ask(http, "hello", user="me", metadata={"a": "b"}, store=False).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_tokens", 0), ("temperature", -1), ("top_p", 0), ("n", 0), ("n", 1000), ("num_frames", 0), ("fps", -2)],
)
def test_values_out_of_range_are_refused_by_name(http: httpx.Client, field: str, value: Any) -> None:
    error = refused(ask(http, "hello", **{field: value}), 400)
    assert field in (error["param"] or "") + error["message"]


def test_bad_base64(http: httpx.Client) -> None:
    url = "data:image/png;base64,@@@@not base64@@@@"
    assert refused(ask(http, parts.image(url)), 400)["param"].startswith(ITEM)


@pytest.mark.parametrize("code", [404, 410, 403])
def test_a_media_host_that_does_not_have_the_item(http: httpx.Client, media_server: MediaServer, code: int) -> None:
    error = refused(ask(http, parts.image(media_server.add(f"/gone-{code}.png", status(code)))), 400)
    assert str(code) in error["message"]
    assert error["param"].startswith(ITEM)


def test_a_media_host_that_is_down(http: httpx.Client) -> None:
    error = refused(ask(http, parts.image("http://127.0.0.1:9/x.png")), 502)
    assert error["param"].startswith(ITEM)


def test_a_private_address_is_not_dialled(http: httpx.Client) -> None:
    refused(ask(http, parts.image("http://10.0.0.1/x.png")), 400)
    refused(ask(http, parts.image("http://169.254.169.254/latest/meta-data")), 400)


def test_truncated_garbage_and_empty_media(http: httpx.Client) -> None:
    png, clip = make_picture("PNG"), make_video(10)
    broken = [
        parts.image(png[: len(png) // 2]),
        parts.image(b"\x00" * 500),
        parts.image(b""),
        parts.video(clip[:200]),
        parts.video(b"not a video at all, just words " * 20),
        parts.video(png),
        parts.audio(b"RIFF\x00\x00\x00\x00WAVEgarbage"),
    ]
    for part in broken:
        error = refused(ask(http, part), 400)
        assert error["param"].startswith(ITEM), error


def test_the_second_item_is_named_when_it_is_the_bad_one(http: httpx.Client) -> None:
    error = refused(ask(http, parts.image(make_picture("PNG")), parts.image(b"nothing")), 400)
    assert error["param"].startswith("messages[0].content[1]")


def test_too_many_items(http: httpx.Client) -> None:
    picture = parts.image(make_picture("PNG", width=16, height=16))
    error = refused(ask(http, *[picture] * 100), 400)
    assert error["code"] == "too_many_items"


def test_a_picture_with_too_many_pixels_by_its_header(http: httpx.Client) -> None:

    sink = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(sink, "PNG")
    error = refused(ask(http, parts.image(sink.getvalue())), 413)
    assert "pixels" in error["message"]


def test_a_prompt_that_is_longer_than_the_context(http: httpx.Client) -> None:
    error = refused(ask(http, "word " * 60_000), 400)
    assert error["code"] == "context_length_exceeded"


def test_errors_of_a_streamed_request_have_their_status(http: httpx.Client) -> None:
    refused(ask(http, parts.video(b"nothing"), stream=True), 400)


def test_no_payload_comes_back(http: httpx.Client) -> None:
    payload = base64.b64encode(b"secret payload " * 1000).decode()
    for part in (parts.image(f"data:image/png;base64,{payload}"), {"type": "x", "url": payload}):
        assert payload[:200] not in ask(http, part).text


def test_unknown_routes_and_methods_have_the_same_shape(http: httpx.Client) -> None:
    refused(http.get("/v1/nothing"), 404)
    refused(http.get("/v1/chat/completions"), 405)


def test_a_client_can_shorten_its_time_and_is_told_which_stage_had_it(
    http: httpx.Client, media_server: MediaServer
) -> None:
    body = {"model": "demo", "messages": parts.user(parts.image(media_server.add("/stalled.png", stalled())), "?")}
    answer = http.post("/v1/chat/completions", json=body, headers={"x-request-timeout-s": "0.5"})
    assert "fetch" in refused(answer, 504)["message"]
