"""Fake servers beside tests that are not asynchronous themselves."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.benchmarks.fake_openai import FakeServer


@pytest.fixture
def serve_fake() -> Iterator[Callable[[FakeServer], FakeServer]]:
    """Serves a `FakeServer` in a thread of its own until the test is over."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    threads = []

    def serve(fake: FakeServer) -> FakeServer:
        ready = threading.Event()

        async def run() -> None:
            async with fake.serving():
                ready.set()
                await stop.wait()

        threads.append(threading.Thread(target=loop.run_until_complete, args=(run(),)))
        threads[-1].start()
        ready.wait()
        return fake

    yield serve
    loop.call_soon_threadsafe(stop.set)
    for thread in threads:
        thread.join()
    loop.close()
