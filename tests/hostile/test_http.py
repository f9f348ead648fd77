"""Hostile requests to the running application: no replica dies of them, and nobody is told that it is our fault."""

import random
from collections.abc import Iterator

import httpx
import pytest

from tests.http.parts import Part, audio, image, user, video
from tests.support.application import RunningApp
from tests.support.hostile.bodies import mutated_body
from tests.support.hostile.body_subject import check_answer
from tests.support.hostile.corpus import GROUPS, media_corpus
from tests.support.hostile.mutations import mutated_file
from tests.support.media_files import make_picture, make_sound, make_video

STAGES = ("Ingress", "MediaFetcher", "VideoDecoder", "Preprocessor", "Model")
BODIES = 40
FILES = 20
"""Of each group."""
PART_OF = {"pictures": image, "videos": video, "sounds": audio}


@pytest.fixture
def unharmed(app: RunningApp) -> Iterator[httpx.Client]:
    """A client of the application, all of whose replicas are the same processes afterwards."""
    before = {stage: pids(app, stage) for stage in STAGES}
    with httpx.Client(base_url=app.url, timeout=120) as client:
        yield client
        assert client.get("/ready").status_code == 200
    assert all(before[stage] <= pids(app, stage) for stage in STAGES)


def pids(app: RunningApp, stage: str) -> set[int]:
    return {process.pid for process in app.replicas(stage)}


def ask(client: httpx.Client, *parts: Part | str) -> httpx.Response:
    return client.post(
        "/v1/chat/completions", json={"model": "demo", "max_tokens": 2, "messages": user(*parts, "what is it?")}
    )


def test_mutated_bodies_are_answered_or_refused(unharmed: httpx.Client) -> None:
    files = media_corpus("pictures")
    for number in range(BODIES):
        body = mutated_body(files, f"http {number}")
        response = unharmed.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        if b"media.example" not in body:  # whose name can't be resolved, and that is nobody's fault here
            check_answer(response)


@pytest.mark.parametrize("group", GROUPS)
def test_mutated_media_are_answered_or_refused(unharmed: httpx.Client, group: str) -> None:
    corpus = media_corpus(group)
    for number in range(FILES):
        response = ask(unharmed, PART_OF[group](mutated_file(corpus, f"http {group} {number}")))
        check_answer(response)


ODD = {
    "one pixel": lambda: image(make_picture("PNG", width=1, height=1)),
    "a column": lambda: image(make_picture("PNG", width=1, height=300)),
    "a line": lambda: image(make_picture("PNG", width=3000, height=20)),
    "sixteen bits": lambda: image(make_picture("PNG", mode="I;16")),
    "one frame": lambda: video(make_video(1, width=16, height=16)),
    "narrow frames": lambda: video(make_video(3, width=1024, height=16)),
    "no samples": lambda: audio(make_sound("wav", seconds=0.0)),
    "one sample": lambda: audio(make_sound("wav", seconds=1 / 44_100)),
    "a click": lambda: audio(make_sound("wav", seconds=0.001)),
    "eight channels": lambda: audio(make_sound("flac", tones_hz=(440.0,) * 8)),
    "a slow rate": lambda: audio(make_sound("wav", rate=100)),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_but_whole_media_are_answered_or_refused(unharmed: httpx.Client, name: str) -> None:
    check_answer(ask(unharmed, ODD[name]()))


def test_headers_that_make_no_sense_are_answered_or_refused(unharmed: httpx.Client) -> None:
    chance = random.Random(0)
    odd = ("", "-1", "nan", "inf", "1e999", "0", "x" * 5000, "1,2", ";")
    names = ("x-request-timeout-s", "x-request-id", "authorization", "content-type", "x-request-timeout-seconds")
    body = {"model": "demo", "max_tokens": 2, "messages": user("hi")}
    for _ in range(40):
        headers = {name: chance.choice(odd) for name in chance.sample(names, 2)}
        response = unharmed.post("/v1/chat/completions", json=body, headers=headers)
        assert response.status_code in (200, 400, 415, 504), (headers, response.text)
