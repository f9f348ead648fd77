import asyncio
import gc
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.deadline import Deadline
from deployments.errors import StageTimeout
from deployments.fetcher.budget import ByteBudget
from deployments.types import MediaItem, MediaKind
from tests.fetcher.conftest import fetching
from tests.support import media_server as host
from tests.support.media_files import make_picture

PICTURE = make_picture()


async def test_room_is_given_back_at_the_end_of_the_block_also_after_an_error():
    budget = ByteBudget(100)
    with pytest.raises(ValueError, match="x"), await budget.take(80):
        assert budget.used_bytes == 80
        raise ValueError("x")
    assert budget.used_bytes == 0


async def test_what_is_kept_for_an_array_stays_taken_until_its_memory_is_freed():
    budget = ByteBudget(100)
    with await budget.take(100) as lease:
        view = np.empty(100, np.uint8)[:30]
        lease.keep_for(view)
    assert budget.used_bytes == 30
    part = view[:5]
    del view
    gc.collect()
    await asyncio.sleep(0)
    assert budget.used_bytes == 30
    thread = threading.Thread(target=lambda array: None, args=(part,))
    del part
    thread.start()
    thread.join()
    del thread
    await asyncio.sleep(0.01)
    assert budget.used_bytes == 0


async def test_whoever_does_not_fit_waits_its_turn():
    budget = ByteBudget(100)
    first = await budget.take(60)
    second = asyncio.create_task(budget.take(60))
    third = asyncio.create_task(budget.take(10))
    await asyncio.sleep(0)
    assert not second.done()
    assert not third.done()  # it would fit, but nobody overtakes
    with first:
        pass
    await asyncio.wait({second, third})
    assert budget.used_bytes == 70


async def test_an_item_larger_than_the_budget_gets_it_alone():
    budget = ByteBudget(100)
    with await budget.take(1000):
        waiting = asyncio.create_task(budget.take(1))
        await asyncio.sleep(0)
        assert not waiting.done()
    with await waiting:
        assert budget.used_bytes == 1


@given(st.lists(st.tuples(st.integers(0, 120), st.booleans()), max_size=25))
def test_room_is_never_exceeded_or_lost_whoever_is_cancelled(items):
    async def run():
        budget = ByteBudget(100)
        most = 0

        async def hold(size):
            nonlocal most
            with await budget.take(size):
                most = max(most, budget.used_bytes)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(hold(size)) for size, _ in items]
        await asyncio.sleep(0)
        for task, (_, cancelled) in zip(tasks, items, strict=True):
            if cancelled:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.used_bytes == 0
        assert most <= max([100, *(size for size, _ in items)])
        return most

    asyncio.run(run())


async def test_a_replica_holds_no_more_media_than_it_may(server):
    url = server.add("/a.jpg", PICTURE)
    item = MediaItem(MediaKind.IMAGE, "a", url)
    async with fetching(max_buffered_bytes=2 * len(PICTURE)) as fetcher:
        held = [await fetcher.fetch(item, Deadline(60.0, "request")) for _ in range(2)]
        with pytest.raises(StageTimeout):
            await fetcher.fetch(item, Deadline(0.1, "request"))
        held.pop()
        gc.collect()
        await fetcher.fetch(item, Deadline(60.0, "request"))


async def test_failed_and_cancelled_fetches_leave_nothing_taken(server):
    urls = [
        server.add("/short", host.cut(PICTURE[:9], declared=len(PICTURE))),
        server.add("/stalled", host.stalled(PICTURE[:9], declared=len(PICTURE))),
        server.add("/text", host.serve(b"hello" * 100)),
        server.add("/chunked", host.chunked(PICTURE)),
    ]
    async with fetching(max_retries=0, max_buffered_bytes=40 * 2**20) as fetcher:
        for url in urls:
            fetch = fetcher.fetch(MediaItem(MediaKind.IMAGE, "a", url), Deadline(0.2, "request"))
            await asyncio.gather(fetch, return_exceptions=True)
        gc.collect()
        whole = server.add("/whole", host.chunked(PICTURE))  # asks for room up to the limit of a picture, 32 MiB
        await fetcher.fetch(MediaItem(MediaKind.IMAGE, "a", whole), Deadline(60.0, "request"))
