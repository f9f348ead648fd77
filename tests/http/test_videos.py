"""Which frames of a video the model is shown, over HTTP: what the request asked for, at times that are the file's."""

from typing import Any

import httpx
import pytest

from tests.http import parts
from tests.support.media_files import make_video
from tests.support.media_server import MediaServer, Ranged, redirect, serve

ITEM = "messages[0].content[0]"
CLIP = make_video(90, width=320, height=192)
"""Three seconds at 30 frames a second."""


def ask(http: httpx.Client, video: parts.Part, **fields: Any) -> httpx.Response:
    body = {"model": "demo", "messages": parts.user(video, "What is this?"), "max_tokens": 2, **fields}
    return http.post("/v1/chat/completions", json=body)


def times(http: httpx.Client, video: parts.Part, **fields: Any) -> list[float]:
    """Seconds at which the frames that the model saw are shown."""
    answer = ask(http, video, **fields)
    assert answer.status_code == 200, answer.text
    seen: list[float] = answer.json()["usage"]["sluice_videos"][ITEM]["frame_timestamps_s"]
    return seen


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_frames": 4}, [0.0, 1.0, 2.0, 2.967]),
        ({"fps": 2.0}, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]),
        ({"fps": 8.0, "max_frames": 2}, [0.0, 2.967]),
        ({"fps": 4.0, "start_s": 1.0, "end_s": 2.1}, [1.0, 1.25, 1.5, 1.75, 2.0]),
        ({"num_frames": 2, "start_s": 2.5}, [2.5, 2.967]),
    ],
    ids=str,
)
def test_the_request_says_which_frames(http: httpx.Client, fields: dict[str, Any], expected: list[float]) -> None:
    assert times(http, {**parts.video(CLIP), **fields}) == pytest.approx(expected, abs=0.035)


def test_frames_of_a_variable_rate_are_taken_by_their_times(http: httpx.Client) -> None:
    shown = [0.0, 0.1, 0.2, 1.0, 2.0, 2.1, 4.0, 5.0]
    video = parts.video(make_video(8, width=320, height=192, times_s=shown))
    assert times(http, video, fps=1.0) == pytest.approx([0.0, 1.0, 2.0, 4.0, 5.0], abs=0.01)


def test_a_rotated_video_is_as_long_a_prompt_as_its_upright_twin(http: httpx.Client) -> None:
    rotated = ask(http, parts.video(make_video(12, width=320, height=128, rotation=90)), num_frames=4)
    upright = ask(http, parts.video(make_video(12, width=128, height=320)), num_frames=4)
    tokens = [answer.json()["usage"]["prompt_tokens_details"]["video_tokens"] for answer in (rotated, upright)]
    assert tokens[0] == tokens[1] > 0


def test_redirects_are_followed_to_the_limit(http: httpx.Client, media_server: MediaServer) -> None:
    url = media_server.add("/clip.mp4", serve(CLIP))
    for hop in range(4):
        url = media_server.add(f"/hop-{hop}", redirect(url))
        answer = ask(http, parts.video(url), num_frames=2)
        assert answer.status_code == (200 if hop < 3 else 400), answer.text
    assert "more than 3 times" in answer.json()["error"]["message"]


def test_a_codec_without_decoder_is_named(http: httpx.Client) -> None:
    answer = ask(http, parts.video(CLIP.replace(b"avc1", b"zzz1")))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (415, "unsupported_codec", ITEM)
    assert "zzz1" in error["message"]


def test_of_a_large_video_only_a_part_is_fetched(http: httpx.Client, media_server: MediaServer) -> None:
    data = make_video(240, width=320, height=192, options={"crf": "1"})
    host, plain = Ranged(data), serve(data)
    sparse = ask(http, {"type": "video_url", "video_url": {"url": media_server.add("/long.mp4", host)}}, num_frames=3)
    whole = ask(http, {"type": "video_url", "video_url": {"url": media_server.add("/whole.mp4", plain)}}, num_frames=3)
    assert sparse.status_code == whole.status_code == 200, sparse.text + whole.text
    assert 0 < host.sent_bytes < len(data) / 2
    assert sparse.json()["choices"] == whole.json()["choices"]
    assert sparse.json()["usage"]["sluice_videos"] == whole.json()["usage"]["sluice_videos"]


def test_a_large_video_that_cannot_be_read_in_parts_is_fetched_whole(
    http: httpx.Client, media_server: MediaServer
) -> None:
    flags = {"movflags": "frag_keyframe+empty_moov"}
    host = Ranged(make_video(240, width=320, height=192, options={"crf": "1"}, muxer_options=flags))
    answer = ask(http, {"type": "video_url", "video_url": {"url": media_server.add("/fragments.mp4", host)}})
    assert answer.status_code == 200, answer.text
    assert host.whole == 2
