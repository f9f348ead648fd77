"""A fetcher that may dial this machine's loopback, and a media host on it."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from deployments.config import MediaConfig
from deployments.fetcher.fetcher import Fetcher
from deployments.observability.metrics import RecordingSink
from tests.support.media_server import MediaServer


@pytest.fixture
def server() -> Iterator[MediaServer]:
    with MediaServer() as running:
        yield running


@asynccontextmanager
async def fetching(
    *, metrics=None, lookup=None, ssl_context=None, clock=time.monotonic, **settings
) -> AsyncIterator[Fetcher]:
    """A `Fetcher` with these `media:` settings; 127.0.0.1 may be dialled unless they say otherwise."""
    config = MediaConfig.model_validate({"allowed_networks": ["127.0.0.1/32"], **settings})
    fetcher = Fetcher(config, metrics or RecordingSink(), lookup=lookup, ssl_context=ssl_context, clock=clock)
    try:
        yield fetcher
    finally:
        await fetcher.close()
