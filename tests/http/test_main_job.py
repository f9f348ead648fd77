"""The main job: chat completions with media, through the official client, streamed and not."""

from typing import Any

import httpx
import openai
import pytest

from tests.http import parts
from tests.support.media_files import make_picture, make_sound
from tests.support.media_server import MediaServer

GREEDY: dict[str, Any] = {"model": "demo", "temperature": 0, "max_tokens": 12}


def modality_tokens(usage: Any) -> dict[str, int]:
    details = usage.prompt_tokens_details.model_dump()
    return {name: details[f"{name}_tokens"] for name in ("image", "video", "audio") if details.get(f"{name}_tokens")}


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").object == "model"


def test_a_text_question_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=parts.user("What can you see?"), **GREEDY)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert modality_tokens(answer.usage) == {}


@pytest.mark.parametrize(
    ("wanted", "modalities"),
    [("clip_1080p", {"video"}), ("png", {"image"}), ("wav", {"audio"}), ("all", {"video", "image", "audio"})],
)
@pytest.mark.parametrize("stream", [False, True])
def test_each_kind_of_media_and_all_at_once_are_answered(
    client: openai.OpenAI, request: pytest.FixtureRequest, wanted: str, modalities: set[str], stream: bool
) -> None:
    make = {
        "clip_1080p": lambda: parts.video(request.getfixturevalue("clip_1080p")),
        "png": lambda: parts.image(request.getfixturevalue("png")),
        "wav": lambda: parts.input_audio(request.getfixturevalue("wav")),
    }
    media = [make[name]() for name in (make if wanted == "all" else [wanted])]
    messages = parts.user(*media, "What is this?")
    if stream:
        options = {"include_usage": True}
        chunks = list(client.chat.completions.create(messages=messages, stream=True, stream_options=options, **GREEDY))
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
        usage = chunks[-1].usage
    else:
        usage = client.chat.completions.create(messages=messages, **GREEDY).usage
    assert usage is not None
    assert set(modality_tokens(usage)) == modalities
    assert usage.completion_tokens > 0


def test_a_streamed_answer_is_the_answer_that_is_not_streamed(client: openai.OpenAI, clip: bytes) -> None:
    messages = parts.user(parts.video(clip), "Which way does it move?")
    whole = client.chat.completions.create(messages=messages, **GREEDY)
    chunks = client.chat.completions.create(messages=messages, stream=True, **GREEDY)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content


def test_media_are_fetched_by_url_and_several_stand_in_several_turns(
    client: openai.OpenAI, media_server: MediaServer, clip: bytes, png: bytes
) -> None:
    picture, sound = media_server.add("/turns.png", png), media_server.add("/turns.flac", make_sound("flac"))
    messages = [
        {"role": "system", "content": "Answer shortly."},
        *parts.user(parts.image(picture), parts.image(make_picture("JPEG"), "image/jpeg"), "Which colours?"),
        {"role": "assistant", "content": "red and blue"},
        *parts.user(parts.audio(sound), parts.video(media_server.add("/turns.mp4", clip)), "And now?"),
    ]
    answer = client.chat.completions.create(messages=messages, **GREEDY)
    assert answer.usage is not None
    assert set(modality_tokens(answer.usage)) == {"image", "video", "audio"}
    assert media_server.hits("/turns.png") == media_server.hits("/turns.flac") == media_server.hits("/turns.mp4") == 1


def test_a_list_of_pictures_is_a_video(client: openai.OpenAI) -> None:
    frames = [parts.data_url(make_picture("JPEG", number=n), "image/jpeg") for n in range(6)]
    answer = client.chat.completions.create(
        messages=parts.user({"type": "video", "video": frames}, "What happens?"), **GREEDY
    )
    assert answer.usage is not None
    assert set(modality_tokens(answer.usage)) == {"video"}


def test_more_frames_cost_more_tokens_and_the_sound_track_is_heard_when_asked_for(
    client: openai.OpenAI, clip_1080p: bytes
) -> None:
    def tokens(**extra: Any) -> dict[str, int]:
        messages = parts.user(parts.video(clip_1080p), "What is this?")
        answer = client.chat.completions.create(messages=messages, extra_body=extra, **GREEDY)
        return modality_tokens(answer.usage)

    few, many = tokens(num_frames=2), tokens(num_frames=8)
    assert 0 < few["video"] < many["video"]
    assert tokens(fps=1.0)["video"] < tokens(fps=4.0)["video"]
    assert "audio" not in few
    assert tokens(num_frames=2, use_audio_in_video=True)["audio"] > 0


def test_sampling_controls_reach_the_model(client: openai.OpenAI) -> None:
    messages = parts.user("Tell me something.")
    options: dict[str, Any] = {"model": "demo", "messages": messages, "max_tokens": 16, "temperature": 2.0}
    forever = {"ignore_eos": True}
    first = client.chat.completions.create(seed=7, extra_body=forever, **options)
    again = client.chat.completions.create(seed=7, extra_body=forever, **options)
    assert first.choices[0].message.content == again.choices[0].message.content
    several = client.chat.completions.create(n=3, seed=7, logprobs=True, top_logprobs=2, extra_body=forever, **options)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in several.choices}) > 1
    assert several.usage is not None
    assert several.usage.completion_tokens == 48
    for choice in several.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert len(choice.logprobs.content) == 16
        assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in choice.logprobs.content)


def test_an_answer_ends_before_its_stop_string(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {**GREEDY, "max_tokens": 24, "extra_body": {"ignore_eos": True}}
    messages = parts.user("What can you see?")
    whole = client.chat.completions.create(messages=messages, **options).choices[0]
    assert whole.message.content
    assert len(whole.message.content) > 6
    stop = whole.message.content[3:6]
    cut = client.chat.completions.create(messages=messages, stop=[stop], **options).choices[0]
    assert cut.finish_reason == "stop"
    assert cut.message.content == whole.message.content[: whole.message.content.index(stop)]


def test_every_answer_says_its_id_and_where_its_time_went(http: httpx.Client, clip: bytes) -> None:
    body = {**GREEDY, "messages": parts.user(parts.video(clip), "What is this?")}
    answer = http.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-1"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "mine-1"
    timing = answer.headers["server-timing"]
    for stage in ("fetch", "decode", "preprocess", "queue", "prefill"):
        assert f"{stage};dur=" in timing
    assert "x-request-id" in http.get("/health").headers


def test_liveness_readiness_and_metrics_of_the_whole_application(http: httpx.Client, client: openai.OpenAI) -> None:
    client.chat.completions.create(messages=parts.user("Hello"), **GREEDY)
    assert http.get("/health").status_code == 200
    assert http.get("/ready").status_code == 200
    metrics = http.get("/metrics")
    assert metrics.status_code == 200
    assert metrics.headers["content-type"].startswith("text/plain")
    for deployment in ("Ingress", "MediaFetcher", "VideoDecoder", "Preprocessor", "Model"):
        assert f'deployment="{deployment}"' in metrics.text
