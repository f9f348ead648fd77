"""The page over stages that answer from memory, and a server that can be made to misbehave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.config import AppConfig
from deployments.demo.samples import write_samples
from tests.browser.asking import opened
from tests.browser.chromium import Page, browser, find_chromium
from tests.support.fakes import FakeApplication

PROGRAM = find_chromium()


@dataclass
class FakeServer:
    """A `FakeApplication` on a port. What `instead` names by its path is answered by that in its stead."""

    app: FakeApplication
    instead: dict[str, ASGIApp] = field(default_factory=dict)
    port: int = 0
    running: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.instead.get(scope.get("path", ""), self.app.api)(scope, receive, send)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeServer"]:
        config = uvicorn.Config(self, port=self.port, log_level="critical", timeout_graceful_shutdown=1)
        self.running = uvicorn.Server(config)
        serving = asyncio.create_task(self.running.serve())
        while not self.running.started:
            await asyncio.sleep(0.001)
        self.port = self.running.servers[0].sockets[0].getsockname()[1]
        yield self
        self.running.should_exit = True
        await serving


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's samples."""
    folder = tmp_path_factory.mktemp("samples")
    list(write_samples(folder))
    return folder


@pytest_asyncio.fixture
async def blank() -> AsyncIterator[Page]:
    """A browser on a desktop's screen, with nothing loaded."""
    if PROGRAM is None:
        pytest.skip("no Chromium here")
    async with browser(PROGRAM) as page:
        await page.resize(1280, 900)
        yield page


@pytest.fixture
def config() -> AppConfig:
    """Of the server; a test module or a test may have its own."""
    return AppConfig()


@pytest_asyncio.fixture
async def server(config: AppConfig) -> AsyncIterator[FakeServer]:
    async with FakeServer(FakeApplication(config)).serving() as server:
        yield server


@pytest_asyncio.fixture
async def page(blank: Page, server: FakeServer) -> Page:
    """The playground, loaded."""
    await opened(blank, server.url)
    return blank
