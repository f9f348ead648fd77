"""Clients of the running application, and media that are encoded once."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.support.application import RunningApp
from tests.support.media_files import make_picture, make_sound, make_video


@pytest.fixture(scope="session")
def client(app: RunningApp) -> Iterator[openai.OpenAI]:
    """The official client, as anyone would use it."""
    with openai.OpenAI(base_url=f"{app.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def http(app: RunningApp) -> Iterator[httpx.Client]:
    """A plain HTTP client below the application's root."""
    with httpx.Client(base_url=app.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def clip_1080p() -> bytes:
    """Two seconds of 1080p H.264 with an AAC track."""
    return make_video(60, width=1920, height=1080, gop=30, tones_hz=(440.0,))


@pytest.fixture(scope="session")
def clip() -> bytes:
    """One second of small H.264."""
    return make_video(30)


@pytest.fixture(scope="session")
def png() -> bytes:
    """A picture with an alpha channel."""
    return make_picture("PNG", mode="RGBA", alpha=128)


@pytest.fixture(scope="session")
def wav() -> bytes:
    return make_sound("wav", seconds=1.0)
