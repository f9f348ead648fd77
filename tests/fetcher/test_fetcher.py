import asyncio
import os
import pickle
import resource
import threading

import pytest
import uvloop

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, InternalError, MediaHostError, MediaNotReachable, StageTimeout, TooLarge
from deployments.observability.metrics import RecordingSink
from deployments.types import MediaItem, MediaKind
from tests.fetcher.conftest import fetching
from tests.support import media_server as host
from tests.support.media_files import make_picture, make_sound, make_video

PICTURE = make_picture("PNG")
PICTURE_PIXELS = 96 * 128
VIDEO = make_video(5, tones_hz=(440.0,))


def minute():
    return Deadline(60.0, "request")


@pytest.mark.parametrize(
    ("kind", "data", "container"),
    [
        (MediaKind.IMAGE, PICTURE, "png"),
        (MediaKind.VIDEO, VIDEO, "mp4"),
        (MediaKind.AUDIO, VIDEO, "mp4"),  # its audio track is meant
        (MediaKind.AUDIO, make_sound("wav"), "wav"),
        (MediaKind.AUDIO, make_sound("webm", rate=48_000), "matroska"),
    ],
)
async def test_the_container_is_what_the_bytes_say_and_the_kind_what_the_item_says(server, kind, data, container):
    url = server.add("/lies.txt", host.serve(data, Content_Type="text/html"))
    async with fetching() as fetcher:
        fetched, _ = await fetcher.fetch(MediaItem(kind, "x", url), minute())
    assert (fetched.kind, fetched.container) == (kind, container)
    assert fetched.pixels == (PICTURE_PIXELS if data is PICTURE else 0)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (MediaKind.VIDEO, b"hello, this is not a film", "is not a video: its bytes look like text"),
        (MediaKind.VIDEO, make_picture(), "is not a video: its bytes look like a JPEG picture"),
        (MediaKind.VIDEO, make_sound("wav"), "is not a video: its bytes look like a WAV sound"),
        (MediaKind.IMAGE, VIDEO, "is not an image: its bytes look like an MP4 or QuickTime file"),
        (MediaKind.IMAGE, b"<html><body>Not found</body></html>", "is not an image: its bytes look like an HTML page"),
        (MediaKind.AUDIO, make_picture("GIF"), "is not audio: its bytes look like a GIF picture"),
        (MediaKind.VIDEO, b"#EXTM3U\n/etc/passwd", r"is not a video: its bytes look like a playlist \(M3U8\)"),
        (MediaKind.VIDEO, b"", "is not a video: it is empty"),
    ],
)
async def test_bytes_of_another_kind_are_refused_by_name(server, kind, data, message):
    url = server.add("/clip.mp4", host.serve(data, Content_Type="video/mp4"))
    async with fetching() as fetcher:
        with pytest.raises(BadMedia, match=rf"^messages\[0\]\.content\[1\] {message}$") as refused:
            await fetcher.fetch(MediaItem(kind, "messages[0].content[1]", url), minute())
    assert refused.value.param == "messages[0].content[1]"


async def test_one_url_asked_for_at_once_is_fetched_once(server):
    gate = threading.Event()
    url = server.add("/a.mp4", host.held(VIDEO, gate))
    metrics = RecordingSink()
    async with fetching(metrics=metrics) as fetcher:
        asked = [fetcher.fetch(MediaItem(MediaKind.VIDEO, str(i), url), minute()) for i in range(10)]
        fetches = [asyncio.create_task(fetch) for fetch in asked]
        while not server.hits("/a.mp4"):
            await asyncio.sleep(0.005)
        fetches[0].cancel()  # the owner leaves
        gate.set()
        results = await asyncio.gather(*fetches, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(data.tobytes() == VIDEO for _, data in results[1:])
    assert all(data is results[1][1] for _, data in results[1:])
    assert server.hits("/a.mp4") == 1
    assert metrics.values["sluice_fetch_joined", ()] == 9


async def test_those_who_share_a_failed_fetch_each_have_their_own_name_for_it(server):
    gate = threading.Event()
    url = server.add("/a.mp4", host.held(bytes(100), gate))
    async with fetching(max_video_bytes=50) as fetcher:
        fetches = [asyncio.create_task(fetcher.fetch(MediaItem(MediaKind.VIDEO, n, url), minute())) for n in "ab"]
        await asyncio.sleep(0.02)
        gate.set()
        first, second = await asyncio.gather(*fetches, return_exceptions=True)
    assert (first.param, second.param) == ("a", "b")
    assert second.message.startswith("b is too large")


async def test_a_joined_request_keeps_its_own_deadline(server):
    gate = threading.Event()
    url = server.add("/a.mp4", host.held(VIDEO, gate))
    async with fetching() as fetcher:
        patient = asyncio.create_task(fetcher.fetch(MediaItem(MediaKind.VIDEO, "a", url), minute()))
        with pytest.raises(StageTimeout):
            await fetcher.fetch(MediaItem(MediaKind.VIDEO, "b", url), Deadline(0.05, "request"))
        gate.set()
        _, data = await patient
    assert data.tobytes() == VIDEO


async def test_what_was_fetched_and_how_it_ended_is_counted(server):
    good, bad = server.add("/a.mp4", VIDEO), server.add("/b.mp4", b"hello")
    metrics = RecordingSink()
    async with fetching(metrics=metrics) as fetcher:
        await fetcher.fetch(MediaItem(MediaKind.VIDEO, "a", good), minute())
        with pytest.raises(BadMedia):
            await fetcher.fetch(MediaItem(MediaKind.VIDEO, "b", bad), minute())
        with pytest.raises(MediaNotReachable):
            await fetcher.fetch(MediaItem(MediaKind.VIDEO, "c", server.url("/missing")), minute())
    assert metrics.values["sluice_fetches", ("video", "ok")] == 1
    assert metrics.values["sluice_fetches", ("video", "invalid_media")] == 1
    assert metrics.values["sluice_fetches", ("video", "media_not_reachable")] == 1
    assert metrics.values["sluice_fetched_bytes", ("video",)] == len(VIDEO)


@pytest.mark.parametrize("path", ["/missing", "/huge", "/broken", "/text", "/stalled"])
async def test_errors_cross_processes_with_their_message_and_their_item(server, path):
    server.add("/huge", host.stalled(declared=10**9))
    server.add("/broken", host.reset())
    server.add("/text", b"hello")
    server.add("/stalled", host.stalled())
    async with fetching(max_retries=0) as fetcher:
        with pytest.raises((MediaNotReachable, TooLarge, MediaHostError, BadMedia, StageTimeout)) as failed:
            await fetcher.fetch(
                MediaItem(MediaKind.VIDEO, "messages[0].content[0]", server.url(path)), Deadline(0.3, "x")
            )
    twin = pickle.loads(pickle.dumps(failed.value))
    assert (type(twin), twin.message, twin.param) == (
        type(failed.value),
        failed.value.message,
        "messages[0].content[0]",
    )


async def test_a_lack_of_file_descriptors_is_the_servers_fault(server, tmp_path):
    (tmp_path / "a.mp4").write_bytes(VIDEO)
    remote, local = server.add("/a.mp4", VIDEO), f"file://{tmp_path}/a.mp4"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with fetching(local_root=tmp_path) as fetcher:
        for url in (remote, local):
            free = os.dup(0)
            os.close(free)  # the lowest free number: all below it are in use
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                with pytest.raises(InternalError, match=r"^part could not be .*: this server is out of"):
                    await fetcher.fetch(MediaItem(MediaKind.VIDEO, "part", url), minute())
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await fetcher.fetch(MediaItem(MediaKind.VIDEO, "part", remote), minute())


def test_all_of_it_runs_on_uvloop(server):
    url = server.add("/a.mp4", host.chunked(VIDEO))
    lookups = server.add("/b.mp4", VIDEO).replace("127.0.0.1", "localhost")

    async def run():
        async with fetching(allowed_networks=["127.0.0.0/8", "::1/128"]) as fetcher:
            for asked in (url, lookups):
                _, data = await fetcher.fetch(MediaItem(MediaKind.VIDEO, "a", asked), minute())
                assert data.tobytes() == VIDEO
            with pytest.raises(MediaHostError):
                await fetcher.fetch(MediaItem(MediaKind.VIDEO, "a", server.add("/reset", host.reset())), minute())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
