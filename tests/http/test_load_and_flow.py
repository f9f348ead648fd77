"""Many at once equal one at a time; large items flow around the ingress; who leaves gives the slot back."""

import asyncio
import json
import struct
import time
from typing import Any

import httpx
import openai

from tests.http import parts
from tests.support.application import RunningApp
from tests.support.media_files import make_picture, make_sound, make_video
from tests.support.media_server import MediaServer

MIB = 2**20


def mixed_messages() -> list[list[dict[str, Any]]]:
    """Forty different requests: text, pictures, clips, sounds, and all of them together."""
    requests = []
    for n in range(8):
        picture = parts.image(make_picture("JPEG", number=n, width=96 + 16 * n), "image/jpeg")
        clip = parts.video(make_video(20 + n, width=160 + 16 * n))
        sound = parts.input_audio(make_sound("wav", seconds=0.5 + n / 4, tones_hz=(300.0 + 50 * n,)))
        requests += [parts.user(f"Question {n}: what do you know?"), parts.user(picture, "What colour is it?")]
        requests += [parts.user(clip, "Which way?"), parts.user(sound, "How many beeps?")]
        requests.append(parts.user(clip, picture, sound, f"Number {n}?"))
    return requests


async def test_forty_mixed_requests_at_once_are_answered_as_one_at_a_time(app: RunningApp) -> None:
    async with openai.AsyncOpenAI(base_url=f"{app.url}/v1", api_key="x", max_retries=0, timeout=240) as client:

        async def ask(messages: list[dict[str, Any]]) -> tuple[str | None, list[str]]:
            answer = await client.chat.completions.create(
                model="demo", messages=messages, temperature=0, max_tokens=8, logprobs=True, extra_body=forever
            )
            choice = answer.choices[0]
            assert choice.logprobs is not None
            return choice.message.content, [token.token for token in choice.logprobs.content or []]

        forever = {"ignore_eos": True}
        requests = mixed_messages()
        alone = [await ask(messages) for messages in requests]
        together = await asyncio.gather(*(ask(messages) for messages in requests))
    assert len(requests) == 40
    assert together == alone


def test_a_50_mib_item_by_url_leaves_the_ingress_as_it_was(
    app: RunningApp, client: openai.OpenAI, media_server: MediaServer
) -> None:
    padding = 50 * MIB
    clip = make_video(30) + struct.pack(">I4s", padding, b"free") + bytes(padding - 8)  # an MP4 box that says nothing
    url = media_server.add("/large.mp4", clip)

    def ask() -> None:
        client.chat.completions.create(model="demo", messages=parts.user(parts.video(url), "?"), max_tokens=2)

    [ingress] = app.replicas("Ingress")
    ask()
    private_before = ingress.memory_full_info().uss
    for _ in range(4):
        ask()
    assert ingress.memory_full_info().uss - private_before < 10 * MIB


def running_sequences(http: httpx.Client) -> float:
    """Sum over the replicas of the sequences that the model is working on, by the application's metrics."""
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("ray_sluice_sequences_running{"))


def wait_for(condition: Any, timeout_s: float = 30) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.2)


def test_a_client_that_leaves_in_the_middle_gives_its_slot_back(http: httpx.Client, app: RunningApp) -> None:
    wait_for(lambda: running_sequences(http) == 0)
    body = {
        "model": "demo",
        "messages": parts.user("Count."),
        "max_tokens": 3000,
        "ignore_eos": True,
        "stream": True,
    }
    with (
        httpx.Client(base_url=app.url, timeout=60) as leaving,
        leaving.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        lines = answer.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        assert json.loads(first[6:])["object"] == "chat.completion.chunk"
        wait_for(lambda: running_sequences(http) == 1)
    wait_for(lambda: running_sequences(http) == 0)
