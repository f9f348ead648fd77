"""Where a model has an encoder: pixels go there and not to the model, clips side by side, and what it says is told."""

import asyncio
from dataclasses import replace

import httpx
import pytest

from deployments.config import AppConfig
from deployments.errors import BadRequest, Overloaded, StageTimeout
from deployments.types import EncodedMedia, MediaMark, PatchRule, ResizeRule
from tests.support import fakes
from tests.support.fakes import PROFILE, VIDEO, FakeApplication

PICTURE = {"type": "image_url", "image_url": {"url": "https://media.example/a.png"}}
TEXT = {"type": "text", "text": "what is this?"}


def clip(name):
    return {"type": "video_url", "video_url": {"url": f"https://media.example/{name}.mp4"}}


class Application(FakeApplication):
    """Its preprocessor names media; its decoder cuts clips into the model's patches where `cuts`."""

    def __init__(self, *, cuts=False, **encoder):
        super().__init__(AppConfig.model_validate({"encoder": encoder}))
        self.preprocessor.answers["prepare"] = self._prepared
        if cuts:
            rule = ResizeRule("frame", factor=2, temporal_factor=2, min_pixels=4, max_pixels=64)
            profile = replace(PROFILE, resize=rule, patches=PatchRule(1, 2, 2))
            self.preprocessor.answers["profile"] = lambda: (profile, None)
            video = replace(VIDEO, patch_grid=(1, 4, 4))
            self.decoder.answers["decode"] = lambda task, file: (video, f"patches of {task.label}")

    @staticmethod
    def _prepared(chat, media):
        told, tensors = fakes.prepared(chat, media)
        return replace(told, media=tuple(MediaMark(item.kind, item.label, "") for item in media)), tensors


async def test_pixels_go_to_the_encoder_and_its_outputs_to_the_model():
    app = Application()
    response = await app.chat([PICTURE, TEXT])
    assert response.status_code == 200, response.text
    (call,) = app.encoder.calls
    assert (call.method, call.payloads) == ("encode", ["tensors"])
    assert app.model.calls[-1].payloads == ["outputs from 0"]
    assert "encode;dur=2.0" in response.headers["server-timing"]  # of the two the longer: the model has little to do
    uses = response.json()["usage"]["sluice_cache"]
    assert [use["encode"] for use in uses.values()] == ["miss"]


async def test_what_the_encoder_knew_is_told_as_a_hit():
    app = Application()
    app.encoder.answers["encode"] = lambda task: (EncodedMedia(0.5, 10, frozenset()), "outputs")
    response = await app.chat([PICTURE, TEXT])
    assert [use["encode"] for use in response.json()["usage"]["sluice_cache"].values()] == ["hit"]


async def test_clips_are_encoded_side_by_side_within_the_bound():
    app = Application(cuts=True, max_parts=2)
    app.encoder.gate = asyncio.Event()
    asking = asyncio.ensure_future(app.chat([clip("a"), clip("b"), clip("c"), TEXT]))
    async with asyncio.timeout(5):
        while app.encoder.inside < 2:
            await asyncio.sleep(0.01)
    app.encoder.gate.set()
    assert (await asking).status_code == 200
    names = [f"patches of messages[0].content[{i}]" for i in range(3)]
    assert [(call.args[0].first_clip, call.payloads) for call in app.encoder.calls] == [(0, names[:2]), (2, names[2:])]
    assert app.model.calls[-1].payloads == ["outputs from 0", "outputs from 2"]
    keys = [call.key for call in app.encoder.calls]
    assert len(set(keys)) == 2
    assert all(keys)


async def test_clips_beside_pictures_are_one_piece_of_work():
    app = Application(cuts=True)
    assert (await app.chat([PICTURE, clip("a"), TEXT])).status_code == 200
    (call,) = app.encoder.calls
    assert call.payloads == ["tensors", "patches of messages[0].content[1]"]


@pytest.mark.parametrize("content", ["hi", [TEXT]])
async def test_text_passes_the_encoder_by(content):
    app = Application()
    assert (await app.chat(content)).status_code == 200
    assert not app.encoder.calls


async def test_time_for_encoding_is_its_own_limit_within_what_is_left():
    app = Application(timeout_s=7.0)
    await app.chat([PICTURE, TEXT])
    await app.chat([PICTURE, TEXT], {"x-request-timeout-s": "3"})
    assert [round(call.remaining_s) for call in app.encoder.calls] == [7, 3]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest("no such picture", param="messages[0].content[0]"), 400),
        (StageTimeout("encode"), 504),
        (Overloaded("the encode stage has no room now", retry_after_s=2.0), 429),
    ],
)
async def test_what_the_encoder_refuses_is_the_answer(error, status):
    app = Application()

    def fail(task):
        raise error

    app.encoder.answers["encode"] = fail
    response = await app.chat([PICTURE, TEXT])
    assert response.status_code == status
    assert response.json()["error"]["message"] == error.message
    assert response.json()["error"]["param"] == error.param
    assert not app.model.calls


async def test_who_leaves_takes_the_encoding_along(serve):
    app = Application()
    app.encoder.gate = asyncio.Event()
    body = {"model": "demo", "messages": [{"role": "user", "content": [PICTURE, TEXT]}]}
    async with serve(app.api) as url, httpx.AsyncClient() as client, asyncio.timeout(20):
        asking = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=body))
        while not app.encoder.inside:
            await asyncio.sleep(0.01)
        asking.cancel()
        while not app.encoder.cancelled or app.encoder.inside:
            await asyncio.sleep(0.01)
    assert not app.model.calls


async def test_salt_and_reuse_reach_the_encoder_as_the_model():
    app = FakeApplication(AppConfig.model_validate({"encoder": {}, "engine": {"prefix_cache_per_key": True}}))
    await app.chat([PICTURE, TEXT], {"x-sluice-cache": "off"})
    task, prepared = app.encoder.calls[-1].args[0], app.model.calls[-1].args[0]
    assert task.cache_salt == prepared.cache_salt != ""
    assert task.reuse is prepared.reuse is False


async def test_of_several_models_each_has_its_own_encoder_or_none():
    config = AppConfig.model_validate({"models": {"seeing": {"encoder": {}}, "plain": {}}})
    app = FakeApplication(config)
    for name in ("seeing", "plain"):
        assert (await app.chat([PICTURE, TEXT], model=name)).status_code == 200
    assert len(app.models["seeing"].encoder.calls) == 1
    assert app.models["plain"].encoder is None
    assert app.models["plain"].model.calls[-1].payloads == ["tensors"]
