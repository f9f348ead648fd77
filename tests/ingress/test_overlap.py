"""A long clip comes in groups: the model is asked once the first is there, and nothing is lost where one is."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from deployments.config import AppConfig
from deployments.errors import BadRequest, MediaLost, Overloaded, PixelsWanted, StageUnavailable
from deployments.types import CacheUse, Fetched, GenerateChunk, GroupTask, PartTask, PatchRule, ResizeRule, TokenDelta
from tests.support.fakes import PROFILE, TIMES, VIDEO, FakeApplication, FakeModel

CLIP = {"type": "video_url", "video_url": {"url": "https://media.example/a.mp4"}}
IN_BODY = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
LATER = tuple(GroupTask(PartTask((number,), ((number, number + 1),), 4), "clip", 36, 64, 0) for number in (1, 2, 3))
GROUPS = ["group 0", "group 1", "group 2", "group 3"]


class Application(FakeApplication):
    """Its decoder takes each lone clip apart; its model says whether all groups came."""

    def __init__(self, config: AppConfig | None = None, *, came: bool = True) -> None:
        super().__init__(config or AppConfig.model_validate({"decoder": {"overlap": True}}))
        profile = replace(PROFILE, resize=ResizeRule("frame", 32, 2, 1, 2**20), patches=PatchRule(16, 2, 2))
        self.preprocessor.answers["profile"] = lambda: (profile, None)
        video = replace(VIDEO, patch_grid=(4, 2, 4), payload_bytes=32 * 12)
        self.fetcher.answers["fetch"] = self._fetched
        self.decoder.answers["decode"] = lambda task, file: (video, "whole")
        self.decoder.answers["decode_early"] = lambda task, file: (replace(video, later=LATER), GROUPS[0])
        self.decoder.answers["decode_group"] = lambda task, group, file: (None, f"group {group.part.packets[0]}")
        hello = (TokenDelta(0, "Hello", 3, finish_reason="stop"),)
        self.model.chunks = [GenerateChunk(hello, TIMES, media_s=1.0 if came else None)]

    @staticmethod
    def _fetched(item: Any) -> tuple[Fetched, str | None]:
        digest = hashlib.sha256(item.label.encode()).hexdigest()
        payload = None if digest in item.known else f"bytes of {item.label}"
        return Fetched(item.kind, "mp4", 10, item.url, 0.001, digest, CacheUse.MISS), payload

    @property
    def decodings(self) -> list[str]:
        return [call.method for call in self.decoder.calls]

    @property
    def shown(self) -> list[tuple[list[Any], list[Any]]]:
        """What the model was given with each call, and what was promised to it."""
        return [(call.payloads, list(call.args[3])) for call in self.model.calls]

    def fail_once(self, error: Exception) -> None:
        stream = self.model.stream

        async def failing(*args: Any, **kwargs: Any) -> Any:
            self.model.stream = stream  # type: ignore[method-assign]
            async for _ in FakeModel.stream(self.model, *args, **kwargs):
                raise error
            yield

        self.model.stream = failing  # type: ignore[method-assign, assignment]


async def answered(app: Application, *content: Any) -> Any:
    response = await app.chat([*content])
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    assert app.api.admission.media.held_bytes == 0
    return response


async def test_the_model_is_promised_all_groups_once_the_first_is_there() -> None:
    app = Application()
    response = await answered(app, CLIP)
    assert app.decodings == ["decode_early", *["decode_group"] * 3]
    assert app.shown == [([], GROUPS)]
    [prepare] = [call for call in app.preprocessor.calls if call.method == "prepare"]
    assert prepare.payloads == []
    assert prepare.args[1][0].video.later == ()
    told = dict(part.split(";dur=")[:2] for part in response.headers["server-timing"].split(", "))
    assert float(told["video_decode"].split(";")[0]) >= 1000.0


@pytest.mark.parametrize("content", [[CLIP], [IN_BODY]], ids=["by a URL", "in the body"])
async def test_a_second_question_finds_all_groups(content: list[Any]) -> None:
    app = Application()
    await answered(app, *content)
    app.fail_once(PixelsWanted("the model has forgotten it"))
    await answered(app, *content)
    assert app.decodings == ["decode_early", *["decode_group"] * 3]
    assert app.shown == [([], GROUPS), ([], []), (GROUPS, [])]
    assert app.model.calls[1].args[0].named_clips == ((32, 12),)


async def test_what_may_not_have_come_is_not_kept() -> None:
    app = Application(came=False)
    for _ in range(2):
        await answered(app, CLIP)
    assert app.decodings.count("decode_early") == 2


@pytest.mark.parametrize("content", [[CLIP], [IN_BODY, PICTURE]], ids=["by a URL", "in the body"])
@pytest.mark.parametrize("where", ["in the model", "the first group", "no place for one"])
async def test_where_a_group_is_lost_the_clip_is_decoded_whole_of_the_same_file(content: list[Any], where: str) -> None:
    app = Application()
    if where == "in the model":
        app.fail_once(MediaLost("a group did not come"))
    elif where == "the first group":
        video, _ = app.decoder.answers["decode_early"](None, None)
        app.decoder.answers["decode_early"] = lambda task, file: (video, StageUnavailable("its replica died"))
    else:

        def refuse(task: Any, group: GroupTask, file: Any) -> Any:
            raise Overloaded("no room")

        app.decoder.answers["decode_group"] = refuse
    await answered(app, *content)
    assert app.decodings.count("decode_early") == 1
    assert app.decodings[-1] == "decode"
    assert app.shown[-1] == ((["tensors"] if len(content) > 1 else []) + ["whole"], [])
    assert len(app.fetcher.calls) == len(content)
    decodings = app.decodings
    await answered(app, *content)
    assert app.decodings == decodings


async def test_a_request_that_fails_stops_what_is_under_way_for_it() -> None:
    app = Application()
    app.fail_once(BadRequest("too long"))
    response = await app.chat([CLIP])
    assert response.status_code == 400
    assert app.decoder.cancelled == 4
    assert len(app.model.calls) == 1


@pytest.mark.parametrize(
    ("config", "content"),
    [(AppConfig(), [CLIP]), (None, [CLIP, IN_BODY])],
    ids=["off", "two clips"],
)
async def test_other_clips_are_decoded_whole(config: AppConfig | None, content: list[Any]) -> None:
    app = Application(config)
    await answered(app, *content)
    assert set(app.decodings) == {"decode"}
    assert app.shown == [(["whole"] * len(content), [])]
