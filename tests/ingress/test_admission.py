"""What requests are expected to hold, and what that means for the next ones."""

import asyncio
import time
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

import pytest

from deployments.config import AppConfig, IngressConfig
from deployments.core.deadline import Deadline
from deployments.errors import Overloaded
from deployments.ingress.admission.admission import Admission, media_share
from deployments.ingress.admission.lane import AdmissionQueue
from deployments.ingress.admission.lease import Lease
from deployments.ingress.admission.media_budget import MediaBudget
from deployments.ingress.http.loop_lag import watch_loop_lag
from deployments.ingress.pipeline.costs import (
    ASSUMED_VIDEO_S,
    CHANNELS,
    COPIES,
    PICTURE_PIXELS,
    decoded_bytes,
    picture_bytes,
    pixel_bytes,
    source_bytes,
)
from deployments.ingress.request import ItemPlan, Source
from deployments.observability.metrics import RecordingSink
from deployments.types import Fetched, FrameSampling, MediaItem, MediaKind, PatchRule, ResizeRule, VideoTask
from tests.support.fakes import PROFILE, FakeApplication
from tests.support.fakes import VIDEO as DECODED

CONFIG = AppConfig(ingress=IngressConfig(assumed_image_bytes=1000, assumed_video_bytes=5000, assumed_audio_bytes=300))


VIDEO = ItemPlan(
    MediaKind.VIDEO, "item", (Source(MediaItem(MediaKind.VIDEO, "item", "https://media.example/v"), None),)
)


def task(rule: ResizeRule | None = None, patches: PatchRule | None = None, **sampling: Any) -> VideoTask:
    wanted = FrameSampling(**{"num_frames": None, "fps": None, "max_frames": 256, **sampling})
    return VideoTask("item", wanted, rule, None, patches)


@pytest.mark.parametrize(
    ("rule", "pixels_of_ten_frames"),
    [
        (None, 10 * 1280 * 720),
        (ResizeRule("exact", height=20, width=30), 10 * 600),
        (ResizeRule("frame", max_pixels=5000), 10 * 5000),
        (ResizeRule("clip", max_pixels=70_000), 70_000),
    ],
)
def test_a_video_is_its_frames_at_the_size_in_which_they_arrive(
    rule: ResizeRule | None, pixels_of_ten_frames: int
) -> None:
    assert pixel_bytes(VIDEO, task(rule, num_frames=10), None) == COPIES * CHANNELS * pixels_of_ten_frames


def test_pixels_that_go_straight_to_the_model_are_held_once() -> None:
    cut = task(ResizeRule("exact", height=20, width=30), PatchRule(10, 1, 1), num_frames=10)
    assert pixel_bytes(VIDEO, cut, None) == CHANNELS * 10 * 600


@pytest.mark.parametrize(
    ("sampling", "frames"),
    [
        ({"fps": 2.0}, 2 * ASSUMED_VIDEO_S),
        ({"fps": 30.0}, 256),
        ({"fps": 30.0, "max_frames": 8}, 8),
        ({"fps": 4.0, "start_s": 1.0, "end_s": 3.0}, 8),
        ({"fps": 0.1, "min_frames": 4}, 4),
    ],
)
def test_frames_by_the_second_are_counted_too(sampling: dict[str, Any], frames: int) -> None:
    one = ResizeRule("exact", height=1, width=1)
    assert pixel_bytes(VIDEO, task(one, **sampling), None) == COPIES * CHANNELS * frames


@pytest.mark.parametrize("where", ["request", "part"])
@pytest.mark.parametrize("options", [{"num_frames": 256}, {"num_frames": 2}, {"max_frames": 4}, {"fps": 30.0}, {}])
async def test_what_is_admitted_is_what_the_decoder_is_asked_for(where: str, options: dict[str, Any]) -> None:
    app = FakeApplication(media_bytes=2**40)
    app.decoder.gate = asyncio.Event()
    part = {"type": "video_url", "video_url": {"url": "https://media.example/v.mp4"}}
    part, fields = ({**part, **options}, {}) if where == "part" else (part, options)
    request = asyncio.create_task(app.chat([part, {"type": "text", "text": "?"}], **fields))
    while not app.decoder.inside:
        await asyncio.sleep(0)
    assert app.api.admission.media.held_bytes == 1000 + pixel_bytes(VIDEO, app.video_task, None)
    app.decoder.gate.set()
    assert (await request).status_code == 200


async def test_a_decoded_video_counts_what_it_holds() -> None:
    app = FakeApplication()
    decoded = replace(DECODED, payload_bytes=12_345)
    app.decoder.answers["decode"] = lambda task, file: (decoded, "frames")
    await app.api.pipelines["demo"].profile(Deadline(60, "ingress"))
    app.preprocessor.gate = asyncio.Event()
    part = {"type": "video_url", "video_url": {"url": "https://media.example/v.mp4"}}
    request = asyncio.create_task(app.chat([part]))
    while not app.preprocessor.inside:
        await asyncio.sleep(0)
    assert app.api.admission.media.held_bytes == 1000 + decoded_bytes(app.video_task, decoded)
    app.preprocessor.gate.set()
    assert (await request).status_code == 200


@pytest.mark.parametrize(
    ("pixels", "rule", "counted"),
    [
        (10**8, None, 2**24),
        (3_000_000, None, 3_000_000),
        (3_000_000, ResizeRule("frame", min_pixels=4000, max_pixels=1_000_000), 1_000_000),
        (100, ResizeRule("frame", min_pixels=4000, max_pixels=1_000_000), 4000),
        (3_000_000, ResizeRule("exact", height=20, width=30), 600),
    ],
)
def test_a_picture_is_as_many_pixels_as_are_kept_of_it(pixels: int, rule: ResizeRule | None, counted: int) -> None:
    assert picture_bytes(pixels, rule) == COPIES * CHANNELS * counted


@pytest.mark.parametrize("pixels", [50_000_000, 6000, 0])
async def test_a_picture_counts_what_its_header_says_once_that_is_known(pixels: int) -> None:
    app = FakeApplication()
    fetched = Fetched(MediaKind.IMAGE, "png", 1000, None, 0.001, pixels=pixels)
    app.fetcher.answers["fetch"] = lambda item: (fetched, "bytes")
    await app.api.pipelines["demo"].profile(Deadline(60, "ingress"))
    app.preprocessor.gate = asyncio.Event()
    part = {"type": "image_url", "image_url": {"url": "https://media.example/p.png"}}
    request = asyncio.create_task(app.chat([part]))
    while not app.preprocessor.inside:
        await asyncio.sleep(0)
    assert app.api.admission.media.held_bytes == 1000 + picture_bytes(pixels or PICTURE_PIXELS, None)
    app.preprocessor.gate.set()
    assert (await request).status_code == 200


def test_a_data_url_is_counted_by_its_length() -> None:
    assert source_bytes(Source(MediaItem(MediaKind.AUDIO, "item", None), bytearray(700)), CONFIG) == 1400


async def test_the_media_in_a_body_hold_its_room_no_longer_than_until_they_are_shared() -> None:
    app = FakeApplication(AppConfig(ingress=IngressConfig(max_text_bytes=1000)))
    app.model.gate = asyncio.Event()
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * 3000}}
    request = asyncio.create_task(app.chat([picture]))
    while not app.model.inside:
        await asyncio.sleep(0)
    assert app.api.admission.bodies.held_bytes == 0
    app.model.gate.set()
    assert (await request).status_code == 200


def make_admission(config: IngressConfig, media_bytes: int, metrics: RecordingSink | None = None) -> Admission:
    return Admission(config, ["demo"], MediaBudget(media_bytes), metrics or RecordingSink())


@pytest.mark.parametrize("replicas", [1, 2, 3, 7])
async def test_all_replicas_together_keep_the_bound(replicas: int) -> None:
    limits = IngressConfig(object_store_share=0.5, max_wait_s=60)
    share = media_share(limits, 10_000, replicas)
    admissions = [make_admission(limits, share) for _ in range(replicas)]
    asked = [admission.admit("demo", "a", 100, Deadline(60, "t")) for admission in admissions for _ in range(200)]
    waiting = [asyncio.create_task(one) for one in asked]
    await asyncio.sleep(0.01)
    assert 0 < sum(admission.media.held_bytes for admission in admissions) <= 5000
    for task in waiting:
        task.cancel()
    assert media_share(IngressConfig(max_media_bytes_in_flight=900), 10_000, replicas) * replicas <= 900


async def test_a_burst_of_two_hundred_videos_never_holds_more_than_the_share() -> None:
    config = IngressConfig(max_wait_s=60, max_running_media=200, max_waiting=200, assumed_video_bytes=1000)
    rule = ResizeRule("exact", height=10, width=10)
    app = FakeApplication(AppConfig(ingress=config), media_bytes=100_000)
    app.preprocessor.answers["profile"] = lambda: (replace(PROFILE, resize=rule), None)
    held, peaks = app.api.admission.media, []
    prepare = app.preprocessor.answers["prepare"]
    app.preprocessor.answers["prepare"] = lambda *args: (peaks.append(held.held_bytes), prepare(*args))[1]
    clip = {"type": "video_url", "video_url": {"url": "https://media.example/v.mp4"}}
    answers = await asyncio.gather(*(app.chat([clip]) for _ in range(200)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(peaks) == 200
    assert 0 < max(peaks) <= 100_000
    assert held.held_bytes == 0


async def test_text_and_media_have_queues_of_their_own() -> None:
    admission = make_admission(
        IngressConfig(max_running_media=1, max_waiting=1, max_wait_s=0.05, max_burst_wait_s=0.05), 10
    )
    deadline = Deadline(60, "ingress")
    await admission.admit("demo", "a", 5, deadline)
    with pytest.raises(Overloaded):
        await admission.admit("demo", "a", 5, deadline)
    await admission.admit("demo", "a", 0, deadline)
    assert [lane.running for lane in admission.lanes["demo"].both] == [1, 1]


async def refused_after(app: FakeApplication, sent: bytes, declared_bytes: int = 1_000_000) -> int:
    """The status that a client gets who sends `sent` of a long body, and then nothing more."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(declared_bytes).encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "query_string": b""}
    pieces = [{"type": "http.request", "body": sent, "more_body": True}] if sent else []
    answer: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if not pieces:
            await asyncio.Event().wait()
        return pieces.pop()

    async def send(message: MutableMapping[str, Any]) -> None:
        answer.append(message)

    async with asyncio.timeout(10):
        await app.api(scope, receive, send)
    return int(answer[0]["status"])


async def fill(lane: AdmissionQueue) -> list["asyncio.Task[Lease]"]:
    tasks = [asyncio.create_task(lane.acquire("address:unknown", 1, Deadline(60, "t"))) for _ in range(2)]
    while not lane.waiting:
        await asyncio.sleep(0)
    return tasks


async def test_who_would_be_refused_whatever_he_asks_for_is_refused_before_his_body_is_read() -> None:
    app = FakeApplication(AppConfig(ingress=IngressConfig(max_running_text=1, max_running_media=1, max_waiting=1)))
    held = [*await fill(app.lanes.text), *await fill(app.lanes.media)]
    assert await refused_after(app, b"") == 429
    for task in held:
        task.cancel()


async def test_a_body_too_large_for_text_is_refused_unread_when_media_have_no_room() -> None:
    limits = IngressConfig(max_running_media=1, max_waiting=1, max_text_bytes=1000, max_body_bytes=2000)
    app = FakeApplication(AppConfig(ingress=limits))
    held = await fill(app.lanes.media)
    assert await refused_after(app, b"", declared_bytes=1001) == 429
    for task in held:
        task.cancel()


async def test_media_that_have_no_room_are_refused_where_they_begin() -> None:
    app = FakeApplication(AppConfig(ingress=IngressConfig(max_running_media=1, max_waiting=1)))
    held = await fill(app.lanes.media)
    url = b'{"type": "image_url", "image_url": {"url": "data:image/png;base64,' + b"QUJD" * 3000
    assert await refused_after(app, b'{"model": "demo", "messages": [{"role": "user", "content": [' + url) == 429
    for task in held:
        task.cancel()


async def test_a_loop_that_waits_is_told_from_one_that_works() -> None:
    sink = RecordingSink()
    watch = asyncio.create_task(watch_loop_lag(sink, lambda: None))
    await asyncio.sleep(0)
    time.sleep(0.5)  # as a machine does that gives the loop no core
    async with asyncio.timeout(10):
        while not sink.values:
            await asyncio.sleep(0.01)
    watch.cancel()
    assert sink.values["sluice_loop_lag_seconds", ()] > 0.4
    assert sink.values["sluice_loop_held_seconds", ()] < 0.4


async def test_the_gauges_are_kept_fresh() -> None:
    sink = RecordingSink()
    admission = make_admission(IngressConfig(), 100, sink)
    await admission.admit("demo", "a", 50, Deadline(60, "ingress"))
    watch = asyncio.create_task(watch_loop_lag(sink, admission.report))
    async with asyncio.timeout(10):
        while ("sluice_loop_lag_seconds", ()) not in sink.values:
            await asyncio.sleep(0.01)
    watch.cancel()
    assert sink.values["sluice_loop_lag_seconds", ()] >= sink.values["sluice_loop_held_seconds", ()] >= 0
    assert sink.values["sluice_admitted_bytes", ()] == 50
    assert sink.values["sluice_requests_running", ()] == 1
