"""The second question about a video, over HTTP: nothing is fetched, decoded or encoded again; an equal answer."""

from typing import Any

import httpx
import pytest

from tests.http import parts
from tests.support.media_files import make_video
from tests.support.media_server import MediaServer, serve

ITEM = "messages[0].content[0]"


def ask(http: httpx.Client, video: parts.Part, headers: dict[str, str] | None = None) -> dict[str, Any]:
    body = {"model": "demo", "messages": parts.user(video, "What is this?"), "max_tokens": 8, "temperature": 0}
    answer = http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def said(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize("by", ["url", "data"])
def test_the_second_question_costs_one_look_at_most(http: httpx.Client, media_server: MediaServer, by: str) -> None:
    clip = make_video(45, width=320, height=192, gop=15 if by == "url" else 9)
    video = parts.video(clip)
    if by == "url":
        url = media_server.add("/second-question.mp4", serve(clip, etag='"1"'))
        video = {"type": "video_url", "video_url": {"url": url}}
    first, second, third = (ask(http, video) for _ in range(3))
    anew = ask(http, video, {"x-sluice-cache": "off"})
    uses = [answer["usage"]["sluice_cache"][ITEM] for answer in (first, second, anew)]
    assert uses[0] == {"fetch": "miss", "decode": "miss", "encode": "miss"}
    assert uses[1] == {"fetch": "revalidated" if by == "url" else "hit", "decode": "hit", "encode": "hit"}
    assert third["usage"]["sluice_cache"][ITEM] == uses[1]
    assert uses[2] == dict.fromkeys(("fetch", "decode", "encode"), "off")
    assert said(first) == said(second) == said(third) == said(anew)
    assert first["usage"]["sluice_videos"] == second["usage"]["sluice_videos"] == anew["usage"]["sluice_videos"]
    asked = [hit.headers.get("if-none-match") for hit in media_server.hits_seen if hit.path == "/second-question.mp4"]
    assert asked == ([None, '"1"', '"1"', None] if by == "url" else asked)
