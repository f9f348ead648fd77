"""Large bodies of a told length, received where they stay: whole, or a failure as of small ones."""

import asyncio
import gc
import hashlib
import threading

import numpy as np
import pytest
import uvloop

from deployments.core.deadline import Deadline
from deployments.errors import MediaHostError
from deployments.fetcher.direct import DIRECT_FROM_BYTES
from deployments.types import MediaItem, MediaKind
from tests.fetcher.conftest import fetching
from tests.support import media_server as host
from tests.support.media_files import make_picture

BODY = make_picture("PNG") + np.random.default_rng(0).bytes(DIRECT_FROM_BYTES + 1_012_345)
HALF = BODY[: len(BODY) // 2]


def image(url):
    return MediaItem(MediaKind.IMAGE, "a", url)


def minute():
    return Deadline(60.0, "request")


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
def test_the_body_and_its_digest_are_what_was_sent(loop_factory, encrypted, certificate):
    serving, trusting = certificate[:2] if encrypted else (None, None)

    async def fetch_twice(url):
        async with fetching(ssl_context=trusting, cache_bytes=0) as fetcher:
            return await asyncio.gather(*(fetcher.fetch(image(url), minute()) for _ in range(2)))

    with host.MediaServer(ssl_context=serving) as server, asyncio.Runner(loop_factory=loop_factory) as runner:
        url = server.add("/a.png", host.serve(BODY))
        for fetched, data in runner.run(fetch_twice(url)):
            assert data.tobytes() == BODY
            assert not data.flags.writeable
            assert fetched.digest == hashlib.sha256(BODY).hexdigest()


async def test_a_slow_beginning_is_part_of_the_body(server):
    """Pieces that have come before the connection is taken over, and pieces that come in many reads."""
    url = server.add("/a.png", host.slow(BODY, pause_s=0.0, piece=170_001))
    async with fetching() as fetcher:
        _, data = await fetcher.fetch(image(url), minute())
    assert data.tobytes() == BODY


async def test_a_host_that_goes_silent_in_the_middle_is_given_up(server):
    url = server.add("/a", host.stalled(HALF, declared=len(BODY)))
    async with fetching(read_timeout_s=0.2) as fetcher:
        with pytest.raises(MediaHostError, match="went silent"):
            await fetcher.fetch(image(url), minute())
    assert server.hits("/a") == 1


async def test_a_host_that_drips_is_given_up(server):
    url = server.add("/a", host.slow(BODY, pause_s=0.02, piece=1))
    async with fetching(read_timeout_s=0.1) as fetcher:
        with pytest.raises(MediaHostError, match="sends too slowly"):
            await fetcher.fetch(image(url), minute())


async def test_a_connection_that_breaks_is_tried_again(server):
    url = server.add("/a", host.in_turn([host.cut(HALF, declared=len(BODY)), host.serve(BODY)]))
    async with fetching(max_retries=1) as fetcher:
        _, data = await fetcher.fetch(image(url), minute())
    assert data.tobytes() == BODY


async def test_a_cancelled_fetch_closes_its_connection_and_gives_its_room_back(server):
    closed = threading.Event()

    async def drip(request):
        try:
            return await host.slow(BODY, pause_s=0.05, piece=100_000)(request)
        except (ConnectionError, asyncio.CancelledError):
            closed.set()
            raise

    url, whole = server.add("/a", drip), server.add("/whole", host.serve(BODY))
    sizes = dict.fromkeys(("max_image_bytes", "max_video_bytes", "max_audio_bytes"), len(BODY))
    async with fetching(cache_bytes=0, max_buffered_bytes=2 * len(BODY) * 4 // 3 + 2, **sizes) as fetcher:
        fetch = asyncio.create_task(fetcher.fetch(image(url), minute()))
        while not server.hits("/a"):
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        assert await asyncio.to_thread(closed.wait, 10)
        del fetch
        gc.collect()
        held = [await fetcher.fetch(image(whole), minute()) for _ in range(2)]
        assert len(held) == 2


async def test_a_connection_is_not_used_again_after_a_large_body(server):
    large, small = server.add("/a", host.serve(BODY)), server.add("/b", host.serve(make_picture("PNG")))
    async with fetching() as fetcher:
        for url in (large, small, small + "?again"):
            await fetcher.fetch(image(url), minute())
    assert server.connections == 2
