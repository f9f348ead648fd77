"""A real HTTP server around an `Api`, for what only shows on a socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import uvicorn

from deployments.ingress.app import Api

Serve = Callable[[Api], AbstractAsyncContextManager[str]]


@pytest.fixture
def serve() -> Serve:
    """`async with serve(api) as url`: the API on a port of loopback."""
    return _serve


@asynccontextmanager
async def _serve(api: Api) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="error", lifespan="on"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await running
