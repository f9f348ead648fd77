"""Name servers of the operator's own: asked in place of the system's, and given up when they stay silent."""

import socket
from collections.abc import Iterator

import pytest

from deployments.fetcher.resolver import SystemLookup


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.6", 0))
        server.settimeout(5)
        yield server


async def test_the_named_server_is_asked_and_given_up_when_it_stays_silent(silent: socket.socket) -> None:
    lookup = SystemLookup(0.3, [f"127.0.0.6:{silent.getsockname()[1]}"])
    with pytest.raises(socket.gaierror) as told:
        await lookup("pictures.example.com")
    assert told.value.errno == socket.EAI_AGAIN
    assert b"\x08pictures\x07example\x03com" in silent.recv(512)
    await lookup.close()
