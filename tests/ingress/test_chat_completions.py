"""The endpoint over fake stages: which stage gets what, and what clients get back."""

import asyncio
import base64
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from deployments.errors import BadMedia, ContextTooLong, Overloaded, StageTimeout, WorkCancelled
from deployments.types import (
    Fetched,
    GenerateChunk,
    MediaItem,
    MediaKind,
    PatchRule,
    ResizeRule,
    TokenDelta,
    TokenLogprob,
)
from tests.support.fakes import PROFILE, TIMES, FakeApplication, fetched
from tests.support.fakes import VIDEO as DECODED

IMAGE = {"type": "image_url", "image_url": {"url": "https://media.example/a.png"}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://media.example/b.mp4"}}
SOUND = {"type": "audio_url", "audio_url": {"url": "https://media.example/c.wav"}}


class Ref:
    """Stands for a payload in shared memory."""


async def test_text_only_requests_reach_neither_fetcher_nor_decoder() -> None:
    app = FakeApplication()
    response = await app.chat("hi")
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    assert app.fetcher.calls == []
    assert app.decoder.calls == []
    assert [call.method for call in app.preprocessor.calls] == ["prepare"]


async def test_each_payload_reaches_the_preprocessor_at_its_items_place() -> None:
    app = FakeApplication()
    response = await app.chat([SOUND, VIDEO, {"type": "text", "text": "what?"}, IMAGE])
    assert response.status_code == 200
    chat, media = app.preprocessor.calls[-1].args
    assert [item.kind for item in media] == [MediaKind.AUDIO, MediaKind.VIDEO, MediaKind.IMAGE]
    assert app.preprocessor.calls[-1].payloads == [
        "bytes of messages[0].content[0]",
        "frames of messages[0].content[1]",
        "bytes of messages[0].content[3]",
    ]
    parts = [(part.text, part.item) for part in chat.messages[0].parts]
    assert parts == [(None, 0), (None, 1), ("what?", None), (None, 2)]
    assert app.model.calls[-1].payloads == ["tensors"]


@pytest.mark.parametrize(("uncut", "straight"), [((), True), ((4,), False)], ids=["all cut", "one is whole"])
async def test_patches_go_straight_to_the_model_when_all_clips_are_cut(uncut: tuple[int, ...], straight: bool) -> None:
    app = FakeApplication()
    rule, resize = PatchRule(16, 2, 2), ResizeRule("frame", 32, 2, 1, 2**20)
    app.preprocessor.answers["profile"] = lambda: (replace(PROFILE, resize=resize, patches=rule), None)
    whole = {f"messages[0].content[{place}]" for place in uncut}
    app.decoder.answers["decode"] = lambda task, file: (
        replace(DECODED, patch_grid=None if task.label in whole else (1, 2, 4)),
        f"pixels of {task.label}",
    )
    response = await app.chat([VIDEO, IMAGE, {"type": "text", "text": "and"}, SOUND, VIDEO])
    assert response.status_code == 200
    clips = ["pixels of messages[0].content[0]", "pixels of messages[0].content[4]"]
    files = ["bytes of messages[0].content[1]", "bytes of messages[0].content[3]"]
    prepare = app.preprocessor.calls[-1]
    assert app.video_task.patches == rule
    assert [item.pixels_at_model for item in prepare.args[1]] == [straight, False, False, straight]
    assert prepare.payloads == (files if straight else [clips[0], *files, clips[1]])
    assert app.model.calls[-1].payloads == (["tensors", *clips] if straight else ["tensors"])


async def test_where_all_pixels_are_at_the_model_the_tensors_travel_with_the_prompt() -> None:
    app = FakeApplication()
    profile = replace(PROFILE, resize=ResizeRule("frame", 32, 2, 1, 2**20), patches=PatchRule(16, 2, 2))
    app.preprocessor.answers["profile"] = lambda: (profile, None)
    app.decoder.answers["decode"] = lambda task, file: (
        replace(DECODED, patch_grid=(1, 2, 4)),
        f"pixels of {task.label}",
    )
    assert (await app.chat([VIDEO, VIDEO])).status_code == 200
    assert app.preprocessor.calls[-1].payloads == []
    generate = app.model.calls[-1]
    assert generate.args[0].sizes == {}
    assert generate.payloads == [f"pixels of messages[0].content[{number}]" for number in range(2)]


@pytest.mark.parametrize("fields", [{"use_audio_in_video": True}, {"mm_processor_kwargs": {"max_pixels": 5000}}])
async def test_patches_are_not_asked_for_where_the_preprocessor_needs_the_clip(fields: dict[str, Any]) -> None:
    app = FakeApplication()
    profile = replace(PROFILE, resize=ResizeRule("frame", 32, 2, 1, 2**20), patches=PatchRule(16, 2, 2))
    app.preprocessor.answers["profile"] = lambda: (profile, None)
    assert (await app.chat([VIDEO], **fields)).status_code == 200
    assert app.video_task.patches is None


async def test_items_of_one_request_are_fetched_side_by_side() -> None:
    app = FakeApplication()
    app.fetcher.gate = asyncio.Event()
    request = asyncio.create_task(app.chat([IMAGE, VIDEO, SOUND]))
    while app.fetcher.inside < 3:
        await asyncio.sleep(0)
    app.fetcher.gate.set()
    assert (await request).status_code == 200


async def test_one_bad_item_stops_the_work_on_the_others_and_is_named() -> None:
    app = FakeApplication()
    app.fetcher.answers["fetch"] = _fail_pictures
    app.decoder.gate = asyncio.Event()
    response = await app.chat([VIDEO, IMAGE])
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": "not a picture",
        "type": "invalid_request_error",
        "param": "messages[0].content[1]",
        "code": "invalid_media",
    }
    assert app.decoder.inside == app.fetcher.inside == 0
    assert app.lanes.media.running == 0
    assert app.api.admission.media.held_bytes == 0


@pytest.mark.parametrize("status", [200, 400])
async def test_a_request_lets_go_of_its_media_at_once(status: int) -> None:
    app = FakeApplication()
    ref = Ref()
    alive = weakref.ref(ref)
    app.fetcher.answers["fetch"] = lambda item, ref=ref: (fetched(item)[0], ref)
    if status == 400:
        app.preprocessor.answers["prepare"] = _raiser(ContextTooLong("too long"))
    gc.collect()
    gc.disable()
    try:
        assert (await app.chat([IMAGE, SOUND])).status_code == status
        app.fetcher.answers.clear()
        app.preprocessor.calls.clear()
        del ref
        assert alive() is None
    finally:
        gc.enable()


async def test_data_urls_go_once_into_shared_memory_and_on_by_reference() -> None:
    app = FakeApplication()
    url = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 64).decode()
    response = await app.chat([{"type": "image_url", "image_url": {"url": url}}])
    assert response.status_code == 200
    assert app.shared == [url.encode()]
    call = app.fetcher.calls[-1]
    assert call.args[0].url is None
    assert call.payloads == ["shared 0"]


async def test_input_audio_arrives_at_the_fetcher_as_a_data_url() -> None:
    app = FakeApplication()
    for size in (30, 9000):
        sound = base64.b64encode(b"R" * size).decode()
        part = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
        assert (await app.chat([part])).status_code == 200
        assert app.shared[-1] == f"data:;base64,{sound}".encode()


async def test_a_list_of_pictures_is_fetched_one_by_one_and_decoded_as_one_video() -> None:
    app = FakeApplication()
    urls = [f"https://media.example/{i}.jpg" for i in range(5)]
    response = await app.chat([{"type": "video", "video": urls, "fps": 2.0}])
    assert response.status_code == 200
    assert [call.args[0].kind for call in app.fetcher.calls] == [MediaKind.IMAGE] * 5
    (decode,) = app.decoder.calls
    assert decode.method == "decode_pictures"
    assert decode.payloads == [f"bytes of messages[0].content[0].video[{i}]" for i in range(5)]
    assert app.video_task.sampling.fps == 2.0


async def test_usage_counts_tokens_by_modality() -> None:
    app = FakeApplication()
    usage = (await app.chat([IMAGE, VIDEO, SOUND])).json()["usage"]
    details = usage["prompt_tokens_details"]
    assert details == {"cached_tokens": 0, "text_tokens": 10, "image_tokens": 5, "video_tokens": 7, "audio_tokens": 3}
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (25, 3, 28)


async def test_every_stage_shows_in_server_timing() -> None:
    response = await FakeApplication().chat([VIDEO])
    stages = [entry.split(";")[0] for entry in response.headers["server-timing"].split(", ")]
    assert stages == ["admission", "fetch", "video_decode", "preprocess", "queue", "encode", "prefill", "decode"]


async def test_usage_tells_which_frames_were_looked_at() -> None:
    usage = (await FakeApplication().chat([VIDEO])).json()["usage"]
    video = usage["sluice_videos"]["messages[0].content[0]"]
    assert (video["frame_indices"], video["frame_timestamps_s"]) == ([0, 25], [0.0, 1.0])


async def test_a_text_request_is_answered_while_media_wait_for_admission() -> None:
    app = FakeApplication(media_bytes=1)
    app.fetcher.gate = asyncio.Event()
    busy = [asyncio.create_task(app.chat([IMAGE])) for _ in range(3)]
    while app.lanes.media.waiting < 2:
        await asyncio.sleep(0)
    assert (await app.chat("hi")).status_code == 200
    app.fetcher.gate.set()
    assert [response.status_code for response in await asyncio.gather(*busy)] == [200] * 3


async def test_media_bytes_are_counted_once_fetched_and_given_back_at_the_first_token() -> None:
    app = FakeApplication()
    app.model.gate = asyncio.Event()
    app.decoder.gate = asyncio.Event()
    request = asyncio.create_task(app.chat([VIDEO]))
    while not app.decoder.inside:
        await asyncio.sleep(0)
    assumed = app.config.ingress.assumed_video_bytes
    assert 1000 < app.api.admission.media.held_bytes < assumed + 2**28
    app.decoder.gate.set()
    while not app.model.inside or app.lanes.media.running:
        await asyncio.sleep(0)
    assert app.api.admission.media.held_bytes == 0
    app.model.gate.set()
    assert (await request).status_code == 200


async def test_stages_get_the_time_that_is_left_within_their_own_cap() -> None:
    app = FakeApplication()
    await app.chat([VIDEO], headers={"x-request-timeout-s": "9"})
    calls = app.fetcher.calls + app.decoder.calls + app.preprocessor.calls + app.model.calls
    assert all(0 < call.remaining_s <= 9 for call in calls)
    await app.chat([VIDEO])
    assert app.fetcher.calls[-1].remaining_s <= app.config.media.total_timeout_s


@pytest.mark.parametrize("header", ["x-request-timeout-s", "x-request-timeout-seconds"])
async def test_no_header_lengthens_the_budget(header: str) -> None:
    app = FakeApplication()
    await app.chat("hi", headers={header: "99999"})
    assert app.model.calls[-1].remaining_s <= app.config.ingress.request_timeout_s


async def test_a_budget_that_is_no_number_is_refused() -> None:
    for nonsense in ("soon", "-1", "nan", ""):
        assert (await FakeApplication().chat(headers={"x-request-timeout-s": nonsense})).status_code == 400


async def test_a_stage_that_takes_too_long_gives_504_naming_it() -> None:
    app = FakeApplication()
    app.decoder.gate = asyncio.Event()
    response = await app.chat([VIDEO], headers={"x-request-timeout-s": "0.2"})
    assert response.status_code == 504
    assert "video_decode" in response.json()["error"]["message"]


async def test_refusals_of_inner_stages_keep_their_status_and_say_when_to_come_back() -> None:
    app = FakeApplication()
    app.preprocessor.answers["prepare"] = _raiser(Overloaded("full", retry_after_s=2.4))
    response = await app.chat("hi")
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")


async def test_errors_before_the_first_token_of_a_stream_have_their_own_status() -> None:
    app = FakeApplication()
    app.model.chunks = [ContextTooLong("too long")]
    response = await app.chat("hi", stream=True)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_an_error_after_the_first_token_is_an_event_and_the_stream_ends_cleanly() -> None:
    app = FakeApplication()
    app.model.chunks[1] = StageTimeout("model")
    response = await app.chat("hi", stream=True)
    assert response.status_code == 200
    events = response.text.split("\n\n")
    assert '"code":"timeout"' in events[-3]
    assert events[-2:] == ["data: [DONE]", ""]


async def test_work_that_a_stage_gave_up_is_told_as_unavailable() -> None:
    app = FakeApplication()
    app.preprocessor.answers["prepare"] = _raiser(WorkCancelled("the replica shuts down"))
    response = await app.chat("hi")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "stage_unavailable")


async def test_a_defect_is_told_without_its_details() -> None:
    app = FakeApplication()
    app.preprocessor.answers["prepare"] = _raiser(KeyError("secret path"))
    response = await app.chat("hi")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text


async def test_a_model_without_ears_refuses_sounds_by_name() -> None:
    app = FakeApplication()
    deaf = replace(PROFILE, modalities=frozenset({MediaKind.IMAGE}))
    app.preprocessor.answers["profile"] = lambda: (deaf, None)
    response = await app.chat([IMAGE, SOUND])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[0].content[1]"
    assert app.fetcher.calls == []


async def test_logprobs_are_worded_as_openai_does() -> None:
    app = FakeApplication()
    best = (TokenLogprob(5, "\ufffd", b"\xc3", -0.5), TokenLogprob(6, "a", b"a", -1.5))
    tokens = (
        TokenLogprob(5, "\ufffd", b"\xc3", -0.5, best),
        TokenLogprob(7, "\ufffd", b"\xa9", -0.1),
        TokenLogprob(2, "<|im_end|>", b"<|im_end|>", -0.2),
    )
    app.model.chunks = [GenerateChunk((TokenDelta(0, "é", 3, tokens, "stop"),), TIMES)]
    response = await app.chat("hi", logprobs=True, top_logprobs=2)
    content = response.json()["choices"][0]["logprobs"]["content"]
    assert bytes(byte for entry in content[:2] for byte in entry["bytes"]).decode() == "é"
    assert [top["token"] for top in content[0]["top_logprobs"]] == ["\ufffd", "a"]
    assert content[2]["token"] == "<|im_end|>"
    assert app.params.logprobs == 2


async def test_several_choices_are_kept_apart() -> None:
    app = FakeApplication()
    app.model.chunks = [
        GenerateChunk((TokenDelta(1, "b", 1), TokenDelta(0, "a", 1))),
        GenerateChunk(
            (TokenDelta(0, "A", 1, finish_reason="stop"), TokenDelta(1, "B", 1, finish_reason="length")), TIMES
        ),
    ]
    choices = (await app.chat("hi", n=2)).json()["choices"]
    assert [choice["message"]["content"] for choice in choices] == ["aA", "bB"]
    assert [choice["finish_reason"] for choice in choices] == ["stop", "length"]


async def test_what_was_done_is_measured() -> None:
    app = FakeApplication()
    await app.chat([IMAGE])
    values = app.metrics.values
    assert values["sluice_requests", ("/v1/chat/completions", "200")] == 1
    assert values["sluice_prompt_tokens", ("image", "demo")] == 5
    assert values["sluice_completion_tokens", ("demo",)] == 3
    assert len(app.metrics.observed["sluice_ttft_seconds", ("demo",)]) == 1


def _fail_pictures(item: MediaItem) -> tuple[Fetched, object]:
    if item.kind == MediaKind.IMAGE:
        raise BadMedia("not a picture", param=item.label)
    return fetched(item)


def _raiser(error: Exception) -> Callable[..., Any]:
    def fail(*_args: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("field", ["mm_processor_kwargs", "response_format", "messages", "unknown"])
@pytest.mark.parametrize("depth", [200, 480, 1000])
async def test_bodies_that_are_nested_deeply_are_refused(field: str, depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    body = '{"model": "demo", "messages": [{"role": "user", "content": "hi"}], "' + field + '": ' + deep + "}"
    async with FakeApplication().client() as client:
        response = await client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "nested deeper" in response.json()["error"]["message"] or "JSON" in response.json()["error"]["message"]
