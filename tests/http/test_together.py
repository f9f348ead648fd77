"""Stages in the ingress' own process (`placement: together`) answer what stages with processes of their own do."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from ray import serve

from deployments.config import AppConfig
from deployments.decoder.deployment import VideoDecoder
from deployments.fetcher.deployment import MediaFetcher
from deployments.ingress.deployment import Ingress
from deployments.model.deployment import Model
from deployments.preprocessor.deployment import Preprocessor
from deployments.serving.in_process import Hosted
from tests.http import parts
from tests.support.application import Cluster
from tests.support.media_files import make_picture, make_sound, make_video
from tests.support.media_server import MediaServer, Ranged

MEDIA = {"allowed_networks": ["127.0.0.0/8"], "sparse_from_bytes": 100_000}
LITTLE = {"ray_actor_options": {"num_cpus": 0}}


@pytest.fixture(scope="module")
def together(ray_cluster: Cluster) -> Iterator[httpx.Client]:
    """Beside the session's application; the graph as `graph.build` binds it, with no claim to CPUs."""
    config = AppConfig.model_validate({"placement": "together", "media": MEDIA, "ingress": {"max_wait_s": 120}})
    fetcher, preprocessor = (Hosted(stage.func_or_class, config) for stage in (MediaFetcher, Preprocessor))
    application = Ingress.options(**LITTLE, max_ongoing_requests=100).bind(  # type: ignore[attr-defined]
        config,
        fetcher=fetcher,
        decoder=VideoDecoder.options(**LITTLE).bind(config, fetcher=fetcher),  # type: ignore[attr-defined]
        models={"demo": (preprocessor, Model.options(**LITTLE).bind(config))},  # type: ignore[attr-defined]
    )
    serve.run(application, name="together", route_prefix="/together")
    with httpx.Client(base_url=f"http://127.0.0.1:{ray_cluster.http_port}/together", timeout=120) as client:
        yield client
    serve.delete("together")


def ask(client: httpx.Client, *content: parts.Part | str, **fields: Any) -> httpx.Response:
    body = {"model": "demo", "messages": parts.user(*content), "temperature": 0, "max_tokens": 8, **fields}
    return client.post("/v1/chat/completions", json=body)


def told(answer: httpx.Response) -> tuple[object, ...]:
    """Status, words and tokens of an answer, and the stages that it says it came through."""
    said = answer.json()
    stages = [entry.partition(";")[0] for entry in answer.headers.get("server-timing", "").split(", ")]
    choices = [choice["message"]["content"] for choice in said.get("choices", [])]
    return answer.status_code, choices, said.get("error"), said.get("usage", {}).get("prompt_tokens_details"), stages


def test_the_same_is_answered_to_everything(
    together: httpx.Client, http: httpx.Client, media_server: MediaServer
) -> None:
    clip = make_video(30, width=320, height=192, tones_hz=(440.0,))
    picture, large = make_picture("PNG", width=320, height=240), make_picture("JPEG", width=1920, height=1440)
    far = Ranged(make_video(240, width=320, height=192, options={"crf": "1"}))
    asked: dict[str, tuple[parts.Part | str, ...]] = {
        "text": ("What can you see?",),
        "pictures": (parts.image(picture), parts.image(large, "image/jpeg"), "What is on them?"),
        "by URL": (parts.image(media_server.add("/together.png", picture)), "What is on it?"),
        "clip": (parts.video(clip), "Which way does it move?"),
        "sound": (parts.input_audio(make_sound("wav", seconds=1.0)), "What do you hear?"),
        "by ranges": (parts.video(media_server.add("/together.mp4", far)), "What happens?"),
        "refused": (parts.image(b"no picture"), "What is on it?"),
    }
    for name, content in asked.items():
        here, there = (ask(client, *content, sluice={"cache": False}) for client in (together, http))
        assert told(here) == told(there), name
    assert far.ranges


def test_a_clip_that_is_asked_about_again_is_found_and_heard_with_its_sound(
    together: httpx.Client, http: httpx.Client
) -> None:
    clip = parts.video(make_video(45, width=320, height=192, tones_hz=(880.0,)))
    listening = {"use_audio_in_video": True}
    for client in (together, http):
        first, second = (ask(client, clip, "What is it?", **listening) for _ in range(2))
        assert first.status_code == 200, first.text
        assert first.json()["choices"] == second.json()["choices"]
        assert second.json()["usage"]["sluice_cache"]["messages[0].content[0]"]["decode"] == "hit"
