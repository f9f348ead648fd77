"""Replicas that die while they work: what may be done again is done again, what may not is told."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from tests.http.parts import image, user, video
from tests.support.application import RunningApp
from tests.support.media_files import make_picture, make_video
from tests.support.media_server import MediaServer, in_turn, serve, stalled

PROXY = "proxy"
R = TypeVar("R")
STAGES = ("Ingress", "MediaFetcher", "VideoDecoder", "Preprocessor", "Model")
PATIENCE_S = 180.0
LONG_TOKENS = 3000
"""Of an answer that takes longer than it takes to notice a death."""
LOOKED_AT_TOKENS = 900
"""Of an answer during which it is looked three times whether its caller lives."""
SETTLE_S = 1.5
"""For a request to reach a replica that does not move: nothing tells from outside that it is there."""


@pytest.fixture
def mortal(app: RunningApp) -> Iterator[RunningApp]:
    """The application; whole again before the next test."""
    yield app
    until(lambda: all(alive(app, stage) for stage in STAGES) and httpx.get(f"{app.url}/ready").status_code == 200)
    until(lambda: ask(app, user("hi")).status_code == 200)


def test_a_fetcher_that_dies_while_it_fetches_costs_nobody_an_answer(
    mortal: RunningApp, media_server: MediaServer
) -> None:
    path = "/deaths/fetcher.png"
    url = media_server.add(path, in_turn([stalled(), serve(make_picture("PNG"))]))
    picture = {"type": "image_url", "image_url": {"url": url}}
    with in_background(lambda: ask(mortal, user(picture, "what is it?"), stream=True)) as asked:
        until(lambda: media_server.hits(path) == 1)
        kill(alive(mortal, "MediaFetcher"))
        assert_answered(asked.result())
    assert media_server.hits(path) == 2


def test_a_decoder_that_dies_while_it_decodes_costs_nobody_an_answer(
    mortal: RunningApp, media_server: MediaServer
) -> None:
    url = media_server.add("/deaths/clip.mp4", make_video(30))
    work = in_background(lambda: ask(mortal, user(video(url), "what happens?")))
    with frozen(alive(mortal, "VideoDecoder")) as replicas, work as asked:
        until(lambda: media_server.hits("/deaths/clip.mp4") == 1)
        time.sleep(SETTLE_S)
        kill(replicas)
        assert_answered(asked.result())


@pytest.mark.parametrize("stage", ["Preprocessor", "Model"])
def test_a_replica_that_dies_before_the_first_token_costs_nobody_an_answer(mortal: RunningApp, stage: str) -> None:
    with frozen(alive(mortal, stage)) as replicas, in_background(lambda: ask(mortal, user("hi"))) as asked:
        time.sleep(SETTLE_S)
        kill(replicas)
        assert_answered(asked.result())


def test_a_model_that_dies_in_the_middle_of_a_conversation_loses_nothing_of_it(
    mortal: RunningApp, media_server: MediaServer
) -> None:
    """The clip that only its name was sent of is unknown to the next replica, which is sent it."""
    url = media_server.add("/deaths/talk.mp4", serve(make_video(30), etag='"1"'))
    first = ask(mortal, user(video(url), "what happens?"), temperature=0)
    assert_answered(first)
    said = first.json()["choices"][0]["message"]
    messages = [*user(video(url), "what happens?"), said, *user("and then?")]
    asking = in_background(lambda: ask(mortal, messages, temperature=0))
    with frozen(alive(mortal, "Model")) as replicas, asking as asked:
        time.sleep(SETTLE_S)
        kill(replicas)
        second = asked.result()
    assert_answered(second)
    until(lambda: httpx.get(f"{mortal.url}/ready").status_code == 200)  # which is looked up a moment later
    again, anew = (ask(mortal, messages, temperature=0, sluice={"cache": cache}) for cache in (True, False))
    assert_answered(again)
    uses = [answer.json()["usage"]["sluice_cache"]["messages[0].content[0]"] for answer in (second, again)]
    assert [(use["decode"], use["encode"]) for use in uses] == [("hit", "miss"), ("hit", "hit")]
    texts = {answer.json()["choices"][0]["message"]["content"] for answer in (second, again, anew)}
    assert len(texts) == 1


def test_a_model_that_dies_while_it_answers_costs_streams_their_end_and_nobody_else_anything(
    mortal: RunningApp,
) -> None:
    long = {"max_tokens": LOOKED_AT_TOKENS, "ignore_eos": True, "temperature": 0}
    body = request(user("tell me a story"), stream=True, **long)
    events: list[str] = []
    with in_background(lambda: ask(mortal, user("tell me another one"), **long)) as asked:
        time.sleep(SETTLE_S)
        with httpx.stream("POST", f"{mortal.url}/v1/chat/completions", json=body, timeout=PATIENCE_S) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            events.append(next(line for line in lines if line))
            kill(alive(mortal, "Model"))
            events += [line for line in lines if line]
        answer = asked.result()
    assert "content" in events[0]
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "stage_unavailable"
    assert events[-1] == "data: [DONE]"
    assert_answered(answer)
    assert answer.json()["usage"]["completion_tokens"] == LOOKED_AT_TOKENS


def test_a_caller_that_lives_is_not_taken_for_dead(mortal: RunningApp) -> None:
    picture = image(make_picture("PNG"))
    answer = ask(mortal, user(picture, "tell me a story"), max_tokens=LOOKED_AT_TOKENS, ignore_eos=True)
    assert_answered(answer)
    assert answer.json()["usage"]["completion_tokens"] == LOOKED_AT_TOKENS


@pytest.mark.parametrize("parts", [["tell me a story"], [image(make_picture("PNG")), "tell me a story"]])
def test_an_ingress_that_dies_takes_its_requests_with_it(mortal: RunningApp, parts: list[Any]) -> None:
    steps = decode_steps(mortal)
    body = request(user(*parts), stream=True, max_tokens=LONG_TOKENS, ignore_eos=True)
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(text_until_the_end, f"{mortal.url}/v1/chat/completions", body)
        until(lambda: gauge(mortal, "sluice_sequences_running") > 0)
        kill(alive(mortal, "Ingress"))
        assert "[DONE]" not in asked.result()  # nobody takes it for a whole answer
    until(lambda: decode_steps(mortal) > steps and gauge(mortal, "sluice_sequences_running") == 0)
    assert decode_steps(mortal) - steps < LONG_TOKENS - 100  # the model found out, and did not go on to the end
    until(lambda: gauge(mortal, "sluice_kv_tokens") == gauge(mortal, "sluice_multimodal_bytes") == 0)


@pytest.mark.parametrize("victim", ["Ingress", PROXY])
def test_whatever_is_said_while_the_front_is_dead_has_openais_shape(mortal: RunningApp, victim: str) -> None:
    long = {"max_tokens": LONG_TOKENS, "ignore_eos": True}
    with in_background(lambda: heard(lambda: ask(mortal, user("tell me a story"), **long))) as asked:
        until(lambda: gauge(mortal, "sluice_sequences_running") > 0)
        kill(alive(mortal, victim))
        said = []
        until(lambda: said.append(heard(lambda: ask(mortal, user("hi")))) or was_answered(said[-1]))
    errors = [response for response in (*said, asked.result()) if response is not None and not was_answered(response)]
    for response in errors:
        assert response.status_code == 503, response.text
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}
        assert "retry-after" in response.headers
    assert victim == PROXY or errors  # who listens while the ingress is gone says so


# ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def request(messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "max_tokens": 4, "messages": messages, **fields}


def ask(app: RunningApp, messages: list[dict[str, Any]], **fields: Any) -> httpx.Response:
    url = f"{app.url}/v1/chat/completions"
    return httpx.post(url, json=request(messages, **fields), timeout=PATIENCE_S)


def text_until_the_end(url: str, body: dict[str, Any]) -> str:
    """All that comes before the connection ends, in whatever way."""
    text = ""
    with suppress(httpx.TransportError), httpx.stream("POST", url, json=body, timeout=PATIENCE_S) as response:
        for piece in response.iter_text():
            text += piece
    return text


def gauge(app: RunningApp, name: str) -> float:
    """The sum over all replicas; NaN, which equals nothing, while nobody can tell."""
    try:
        lines = httpx.get(f"{app.url}/metrics", timeout=10).text.splitlines()
    except httpx.TransportError:
        return math.nan
    told = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"ray_{name}{{")]
    return sum(told) if told else math.nan


def decode_steps(app: RunningApp) -> float:
    told = gauge(app, "sluice_batch_size_count")
    return 0.0 if math.isnan(told) else told


def assert_answered(response: httpx.Response) -> None:
    assert response.status_code == 200, response.text
    assert '"error"' not in response.text, response.text


def alive(app: RunningApp, stage: str) -> list[psutil.Process]:
    found = app.proxies() if stage == PROXY else app.replicas(stage)
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def heard(work: Callable[[], httpx.Response]) -> httpx.Response | None:
    """None where nobody is there to say anything: the connection is refused, or ends."""
    with suppress(httpx.TransportError):
        return work()
    return None


def was_answered(response: httpx.Response | None) -> bool:
    return response is not None and response.status_code == 200


def kill(processes: list[psutil.Process]) -> None:
    assert processes
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=30)


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[list[psutil.Process]]:
    """They take requests and do nothing: the moment at which they die is then the test's to choose."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield processes
    finally:
        for process in processes:
            if process.is_running():
                process.send_signal(signal.SIGCONT)


@contextmanager
def in_background(work: Callable[[], R]) -> "Iterator[Future[R]]":
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(work)


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.1)
