"""Videos of earlier requests are not fetched or decoded again; who wants none of it, or lost it, gets it anew."""

import asyncio
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.config import AppConfig
from deployments.errors import BadMedia, PixelsWanted, StageUnavailable
from deployments.ingress.pipeline.decoded_media import Decoded, DecodedMedia
from deployments.observability.metrics import RecordingSink
from deployments.stage_calls import TensorRef
from deployments.types import CacheUse, Fetched, FrameSampling, GenerateChunk, MediaKind, ResizeRule, VideoTask
from tests.support.fakes import VIDEO, FakeApplication, hello

SIZE = 1000
URL = "https://media.example/a.mp4"
DATA = "data:video/mp4;base64,AAAA"
OFF = {"x-sluice-cache": "off"}
NO_CACHE = {"cache": False}


class Application(FakeApplication):
    """Its media host may change what it has; its fetcher sends no bytes that the caller knows."""

    content = "one"
    kept = CacheUse.MISS
    """What its fetcher says of what it has brought."""

    def __init__(self, config: AppConfig | None = None, media_bytes: int = 2**30) -> None:
        super().__init__(config, media_bytes=media_bytes)
        self.fetcher.answers["fetch"] = self._fetched
        self.decoder.answers["decode"] = lambda task, file: (
            replace(VIDEO, payload_bytes=SIZE),
            f"frames of {self.content}",
        )

    def _fetched(self, item):
        digest = hashlib.sha256(self.content.encode()).hexdigest()
        use = self.kept if item.cache else CacheUse.OFF
        payload = None if digest in item.known else f"bytes of {self.content}"
        return Fetched(item.kind, "mp4", 10, item.url, 0.001, digest, use), payload

    async def ask(self, url=URL, headers=None, **options):
        response = await self.chat([{"type": "video_url", "video_url": {"url": url, **options}}], headers)
        assert response.status_code == 200, response.text
        return response

    @property
    def counts(self) -> tuple[int, int]:
        """Fetches and decodings."""
        return len(self.fetcher.calls), len(self.decoder.calls)


@pytest.mark.parametrize(("url", "fetches"), [(URL, 2), (DATA, 1)])
async def test_a_second_question_decodes_nothing_and_shows_the_model_the_same(url, fetches):
    app = Application()
    first = await app.ask(url)
    second = await app.ask(url)
    assert app.counts == (fetches, 1)
    assert len(app.shared) == (url == DATA)
    assert app.preprocessor.calls[-1].payloads == app.preprocessor.calls[-2].payloads == ["frames of one"]
    uses = [
        response.json()["usage"]["sluice_cache"]["messages[0].content[0]"]["decode"] for response in (first, second)
    ]
    assert uses == ["miss", "hit"]
    assert 'video_decode;dur=0.0;desc="hit"' in second.headers["server-timing"]
    assert app.metrics.values["sluice_cache_hits", ("video_decode",)] == 1
    assert app.metrics.values["sluice_cache_bytes", ("video_decode",)] == SIZE


async def test_equal_contents_are_one_clip_wherever_they_come_from_and_changed_ones_are_another():
    app = Application()
    for url in (URL, URL + "?again", DATA):
        await app.ask(url)
    assert app.counts == (3, 1)
    app.content = "two"
    await app.ask()
    assert app.counts == (4, 2)
    assert app.preprocessor.calls[-1].payloads == ["frames of two"]


async def test_the_host_is_asked_while_the_answer_begins_and_nothing_is_said_before_it_has_answered():
    app = Application()
    await app.ask()
    app.fetcher.gate = asyncio.Event()
    asking = asyncio.create_task(app.ask())
    async with asyncio.timeout(30):
        while len(app.model.calls) < 2:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert not asking.done()
    app.fetcher.gate.set()
    told = (await asking).headers["server-timing"].split(", ")
    assert [stage.split(";")[0] for stage in told[:4]] == ["admission", "fetch", "video_decode", "preprocess"]
    assert app.counts == (2, 1)
    assert app.model.inside == app.model.cancelled == 0


async def test_an_answer_about_what_has_changed_meanwhile_is_stopped_and_not_told():
    app = Application()
    await app.ask()
    app.content, app.fetcher.gate = "two", asyncio.Event()
    asking = asyncio.create_task(app.ask())
    async with asyncio.timeout(30):
        while len(app.model.calls) < 2:
            await asyncio.sleep(0.005)
    app.fetcher.gate.set()
    await asking
    assert app.preprocessor.calls[-1].payloads == ["frames of two"]
    assert len(app.model.calls) == 3
    assert (app.model.cancelled, app.model.inside) == (1, 0)


class Patches(Application):
    """Its clips go straight to the model, which may have forgotten them."""

    forgotten = False

    def __init__(self, config: AppConfig | None = None) -> None:
        super().__init__(config)
        self.decoder.answers["decode"] = lambda task, file: (
            replace(VIDEO, payload_bytes=SIZE, patch_grid=(1, 2, 5)),
            f"patches of {self.content}",
        )
        stream = self.model.stream

        async def forgetful(method, deadline, prepared, *args, **options):
            async for chunk in stream(method, deadline, prepared, *args, **options):
                if self.forgotten and prepared.named_clips:
                    raise PixelsWanted("it was long ago")
                yield chunk

        self.model.stream = forgetful

    @property
    def shown(self):
        """Of each call of the model: the clips that are named, and those that are sent."""
        return [(call.args[0].named_clips, call.payloads) for call in self.model.calls]


NAMED, SENT = (((10, 100),), []), ((), ["patches of one"])


async def test_a_clip_that_the_model_has_seen_is_named_and_sent_where_it_was_forgotten():
    app = Patches()
    await app.ask()
    await app.ask()
    app.forgotten = True
    response = await app.ask()
    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    assert app.shown == [SENT, NAMED, NAMED, SENT]
    assert len({call.key for call in app.model.calls}) == 1
    assert app.counts == (3, 1)


@pytest.mark.parametrize(
    ("options", "engine"),
    [({"headers": OFF}, {}), ({}, {"prefix_cache": False, "reuse_cache_mib": 0})],
)
async def test_a_clip_is_sent_at_once_where_nothing_is_kept(options, engine):
    app = Patches(AppConfig.model_validate({"engine": engine}))
    await app.ask()
    await app.ask(**options)
    assert app.shown == [SENT, SENT]


async def test_what_was_brought_to_see_whether_it_has_changed_is_not_brought_again():
    app = Application()
    for number in range(3):  # a camera: another picture each time
        app.content = f"picture {number}"
        response = await app.ask()
        assert app.preprocessor.calls[-1].payloads == [f"frames of picture {number}"]
        used = response.json()["usage"]["sluice_cache"]["messages[0].content[0]"]
        assert (used["fetch"], used["decode"]) == ("miss", "miss")
    assert app.counts == (3, 3)
    assert ("sluice_cache_hits", ("video_decode",)) not in app.metrics.values


@pytest.mark.parametrize("kept", [CacheUse.MISS, CacheUse.REVALIDATED])
async def test_a_clip_that_comes_and_goes_is_told_apart_each_time_without_being_brought_twice(kept):
    app = Application()
    app.kept = kept
    for number, content in enumerate(("one", "two", "one", "one", "two", "two")):
        app.content = content
        await app.ask()
        assert app.preprocessor.calls[-1].payloads == [f"frames of {content}"], number
    assert len(app.decoder.calls) == 2
    asked = [(call.method, call.args[0].confirmed != "") for call in app.fetcher.calls]
    if kept is CacheUse.MISS:  # whoever looks brings it, and nobody keeps it
        assert asked == [("fetch", False)] * 6
        return
    # One to see, and where it has changed one more that asks nobody.
    assert asked == [
        ("fetch", False),
        *(("confirm", False), ("fetch", True)),
        *(("confirm", False), ("confirm", True)),
        ("confirm", False),
        *(("confirm", False), ("confirm", True)),
        ("confirm", False),
    ]


async def test_a_host_that_has_the_clip_no_more_is_not_answered_for():
    app = Application()
    await app.ask()

    def gone(item):
        raise BadMedia("the host answers 404")

    app.fetcher.answers["fetch"] = gone
    response = await app.chat([{"type": "video_url", "video_url": {"url": URL}}])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[0].content[0]"
    assert (app.model.cancelled, app.model.inside) == (len(app.model.calls) - 1, 0)


async def test_other_frames_are_another_decoding():
    app = Application()
    for options in ({}, {"num_frames": 3}, {"num_frames": 3, "start_s": 1.0}, {"num_frames": 3}):
        await app.ask(**options)
    assert app.counts == (4, 3)


async def test_a_client_that_wants_no_cache_is_answered_anew_and_leaves_nothing():
    app = Application()
    for _ in range(2):
        response = await app.ask(headers=OFF)
    assert app.counts == (2, 2)
    assert not any(call.args[0].cache for call in app.fetcher.calls)
    assert response.json()["usage"]["sluice_cache"]["messages[0].content[0]"] == dict.fromkeys(
        ("fetch", "decode", "encode"), "off"
    )
    assert app.model.calls[-1].args[0].reuse is False
    refused = await app.chat("hi", {"x-sluice-cache": "maybe"})
    assert refused.status_code == 400


def in_chat(**fields):
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], **fields}


def in_response(**fields):
    return "/v1/responses", {"input": "hi", "store": False, **fields}


def in_message(**fields):
    return "/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **fields}


def in_completion(**fields):
    return "/v1/completions", {"prompt": "hi", **fields}


@pytest.mark.parametrize("asking", [in_chat, in_response, in_message, in_completion])
async def test_the_body_of_any_api_may_ask_for_no_cache_as_the_header_does(asking):
    app = Application()
    wanted = []
    async with app.client() as client:
        for fields in ({}, {"sluice": NO_CACHE}, {"sluice": {"cache": True}}):
            path, body = asking(**fields)
            response = await client.post(path, json={"model": "demo", **body})
            assert response.status_code == 200, response.text
            wanted.append(app.model.calls[-1].args[0].reuse)
        path, body = asking(sluice={"cache": "no"})
        refused = await client.post(path, json={"model": "demo", **body})
    assert wanted == [True, False, True]
    assert refused.status_code == 400
    assert "sluice.cache" in refused.text


async def test_neither_the_body_nor_the_header_can_ask_for_what_the_other_does_not_want():
    app = Application()
    await app.chat("hi", OFF, sluice={"cache": True})
    await app.chat("hi", {"x-sluice-cache": "on"}, sluice=NO_CACHE)
    assert [call.args[0].reuse for call in app.model.calls] == [False, False]


async def test_what_the_towers_looked_at_is_told_by_item():
    app = Application()
    last = hello()[-1]
    assert isinstance(last, GenerateChunk)
    app.model.chunks = [replace(last, encoded=frozenset({"messages[0].content[0]"}))]
    first = await app.ask()
    app.model.chunks = [last]
    second = await app.ask()
    told = [r.json()["usage"]["sluice_cache"]["messages[0].content[0]"]["encode"] for r in (first, second)]
    assert told == ["miss", "hit"]


@pytest.mark.parametrize("url", [URL, DATA])
@pytest.mark.parametrize("stage", ["preprocessor", "model"])
async def test_a_clip_that_was_lost_with_its_machine_is_made_again(url, stage):
    app = Application()
    await app.ask(url)
    lost = StageUnavailable("what it works with was lost")
    if stage == "model":
        stream = app.model.stream

        async def failing(method, deadline, *args, key, payloads=(), promises=None):
            app.model.stream = stream
            raise lost
            yield

        app.model.stream = failing
    else:
        prepare = app.preprocessor.answers["prepare"]

        def failing_once(*args):
            app.preprocessor.answers["prepare"] = prepare
            raise lost

        app.preprocessor.answers["prepare"] = failing_once
    response = await app.ask(url)
    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    assert len(app.decoder.calls) == 2
    assert app.api.admission.media.held_bytes == 0


async def test_a_lost_clip_beside_a_picture_out_of_the_body_is_asked_for_again_by_the_client():
    app = Application()
    await app.ask()
    prepare = app.preprocessor.answers["prepare"]

    def failing_once(*args):
        app.preprocessor.answers["prepare"] = prepare
        raise StageUnavailable("what it works with was lost")

    app.preprocessor.answers["prepare"] = failing_once
    clip = {"type": "video_url", "video_url": {"url": URL}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "AAAA" * 2000}}
    first, second = await app.chat([clip, picture]), await app.chat([clip, picture])
    assert (first.status_code, second.status_code) == (503, 200)
    assert "retry-after" in first.headers
    assert all(call.payloads for call in app.fetcher.calls if call.args[0].url is None)


async def test_a_lost_stage_without_anything_reused_is_an_error_at_once():
    app = Application()
    app.model.chunks = [StageUnavailable("gone")]
    response = await app.chat([{"type": "video_url", "video_url": {"url": URL}}])
    assert response.status_code == 503
    assert len(app.model.calls) == 1


async def test_clients_share_no_clips_where_the_operator_says_so():
    config = AppConfig.model_validate({"ingress": {"api_keys": ["a", "b"]}, "media": {"cache_per_key": True}})
    app = Application(config)
    for key in ("a", "b", "a"):
        await app.ask(headers={"authorization": f"Bearer {key}"})
    assert app.counts == (3, 2)


TASK = VideoTask("a", FrameSampling(8, None, 64), None, None)
OTHERS = [
    replace(TASK, sampling=FrameSampling(9, None, 64)),
    replace(TASK, sampling=FrameSampling(8, None, 64, start_s=1.0)),
    replace(TASK, resize=ResizeRule("exact", height=32, width=32)),
    replace(TASK, audio_rate_hz=16_000),
]


def clip(name: str, size: int = SIZE) -> Decoded:
    file = Fetched(MediaKind.VIDEO, "mp4", 10, None, 0.0, name)
    return Decoded((file,), replace(VIDEO, payload_bytes=size), (TensorRef(name),))


def test_all_that_was_asked_of_the_decoder_is_part_of_a_clips_key_and_its_label_is_not():
    cache = DecodedMedia(1.0, RecordingSink())
    cache.fit(0, 10**6)
    decoded = clip("one")
    cache.keep(["url"], decoded, TASK, "")
    assert cache.find(decoded.files, replace(TASK, label="b"), "somebody") is decoded
    assert [cache.find(decoded.files, other, "") for other in OTHERS] == [None] * len(OTHERS)
    assert cache.find(clip("two").files, TASK, "") is None


@given(st.lists(st.tuples(st.sampled_from(["keep", "fit"]), st.integers(0, 1200), st.integers(0, 9)), max_size=40))
def test_kept_clips_and_admitted_requests_never_hold_more_than_may_be_held(steps):
    cache = DecodedMedia(0.5, RecordingSink())
    cache.fit(0, 1000)
    held = 0
    for what, size, number in steps:
        if what == "fit":
            held = min(size, 1000)
            cache.fit(held, 1000)
        else:
            cache.keep([str(number)], clip(str(number), size), TASK, "")
        assert cache.size_bytes <= min(500, 1000 - held)
