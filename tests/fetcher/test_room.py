"""Room for media: nobody waits for a promise, nobody loses what is given back."""

import asyncio
import base64
import gc

import numpy as np
import pytest

from deployments.core.deadline import Deadline
from deployments.errors import StageTimeout
from deployments.types import MediaItem, MediaKind
from tests.fetcher.conftest import fetching
from tests.support import media_server as host
from tests.support.media_files import make_picture

PICTURE = make_picture()
SMALL = {
    "cache_bytes": 0,
    "max_image_bytes": len(PICTURE),
    "max_video_bytes": len(PICTURE),
    "max_audio_bytes": len(PICTURE),
}
ROOM_FOR_TWO = {**SMALL, "max_buffered_bytes": 2 * len(PICTURE) * 4 // 3 + 2}


def picture(url, client=""):
    return MediaItem(MediaKind.IMAGE, "a", url, client)


async def test_a_replica_holds_no_more_media_than_it_may(server):
    url = server.add("/a.jpg", PICTURE)
    async with fetching(**ROOM_FOR_TWO) as fetcher:
        held = [await fetcher.fetch(picture(url), Deadline(60.0, "request")) for _ in range(2)]
        with pytest.raises(StageTimeout):
            await fetcher.fetch(picture(url), Deadline(0.1, "request"))
        held.pop()
        gc.collect()
        await fetcher.fetch(picture(url), Deadline(60.0, "request"))


async def test_promises_of_slow_hosts_keep_nobodys_media_out(server):
    declared = 512 * 2**20 - 1
    slow = [server.add(f"/slow{i}", host.stalled(PICTURE[:9], declared=declared)) for i in range(8)]
    fast = server.add("/fast", PICTURE)
    data = np.frombuffer(b"data:image/jpeg;base64," + base64.b64encode(PICTURE), np.uint8)
    async with fetching() as fetcher:
        items = [MediaItem(MediaKind.VIDEO, "v", url, "attacker") for url in slow]
        attack = [asyncio.create_task(fetcher.fetch(item, Deadline(60.0, "request"))) for item in items]
        while len(server.hits_seen) < 8:
            await asyncio.sleep(0.005)
        for item, text in ((picture(fast, "other"), None), (picture(None, "other"), data)):
            fetched, _ = await fetcher.fetch(item, Deadline(60.0, "request"), text)
            assert fetched.size_bytes == len(PICTURE)
        assert not any(task.done() for task in attack)
        for task in attack:
            task.cancel()
        await asyncio.gather(*attack, return_exceptions=True)


async def test_one_client_or_host_that_fills_its_share_leaves_the_rest_to_others(server):
    """Bytes that have come, from hosts that then hold back the last one."""
    size = 30_000
    full = [server.add(f"/full{i}", host.stalled(bytes(size - 1), declared=size)) for i in range(12)]
    with host.MediaServer("127.0.0.2") as others:
        url = others.add("/a", PICTURE[:100].ljust(size, b"\0"))
        limits = dict.fromkeys(("max_image_bytes", "max_video_bytes", "max_audio_bytes"), size)
        networks = ["127.0.0.0/8"]
        async with fetching(**limits, max_buffered_bytes=8 * size, allowed_networks=networks) as fetcher:
            items = [picture(address, f"attacker {i}") for i, address in enumerate(full)]
            attack = [asyncio.create_task(fetcher.fetch(item, Deadline(60.0, "request"))) for item in items]
            await asyncio.sleep(0.3)
            fetched, _ = await fetcher.fetch(picture(url, "other"), Deadline(5.0, "request"))
            assert fetched.size_bytes == size
            for task in attack:
                task.cancel()
            await asyncio.gather(*attack, return_exceptions=True)


async def test_failed_and_cancelled_fetches_leave_nothing_taken(server):
    urls = [
        server.add("/short", host.cut(PICTURE[:9], declared=len(PICTURE))),
        server.add("/stalled", host.stalled(PICTURE[:9], declared=len(PICTURE))),
        server.add("/text", host.serve(b"hello" * 100)),
        server.add("/chunked", host.chunked(PICTURE)),
    ]
    async with fetching(max_retries=0, **ROOM_FOR_TWO) as fetcher:
        for url in urls:
            fetch = fetcher.fetch(picture(url), Deadline(0.2, "request"))
            await asyncio.gather(fetch, return_exceptions=True)
        gc.collect()
        whole = server.add("/whole", host.chunked(PICTURE))
        held = [await fetcher.fetch(picture(whole), Deadline(60.0, "request")) for _ in range(2)]
        assert len(held) == 2
