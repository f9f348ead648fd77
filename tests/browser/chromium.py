"""Headless Chromium, driven over its DevTools protocol: what a person does at the page, and what they see."""

import asyncio
import base64
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--use-fake-device-for-media-stream",  # a camera and a microphone, and consent to use them
    "--use-fake-ui-for-media-stream",
    "--remote-debugging-port=0",
    "--host-resolver-rules=MAP *.example 127.0.0.1",  # for a page from another host, without TLS
)
START_TIMEOUT_S = 60.0
PATIENCE_S = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The browser's program; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab. `requested` are the addresses that it asked for, `complaints` what its scripts and its policy said."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._listening = asyncio.create_task(self._listen())
        self.requested: list[str] = []
        self.complaints: list[str] = []

    async def tell(self, method: str, **params: Any) -> Any:
        """One command of the protocol, and its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE_S):
            return await answer

    async def open(self, url: str) -> None:
        for domain in ("Page", "Network", "Runtime", "Log", "DOM", "Accessibility"):
            await self.tell(f"{domain}.enable")
        await self.tell("Emulation.setFocusEmulationEnabled", enabled=True)
        await self.tell("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise's, when it is one. It counts as done by the person."""
        how = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        result = await self.tell("Runtime.evaluate", expression=expression, **how)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until the expression is true."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.evaluate(expression):
                await asyncio.sleep(0.05)

    async def click(self, selector: str) -> None:
        await self.evaluate(f"document.querySelector({selector!r}).click()")

    async def fill(self, selector: str, text: str) -> None:
        """Put the text into a box, in place of what stands there."""
        await self.evaluate(f"document.querySelector({selector!r}).value = {orjson.dumps(text).decode()}")

    async def text(self, selector: str) -> str:
        return str(await self.evaluate(f"document.querySelector({selector!r}).innerText"))

    async def texts(self, selector: str) -> list[str]:
        found: list[str] = await self.evaluate(f"[...document.querySelectorAll({selector!r})].map(e => e.innerText)")
        return found

    async def drop(self, selector: str, files: Sequence[Path]) -> None:
        """Drag files over the element and let them go there."""
        box = f"document.querySelector({selector!r}).getBoundingClientRect()"
        x, y = await self.evaluate(f"(({{x, y}}) => [x + 20, y + 20])({box})")
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await self.tell("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    async def press(self, key: str, *, text: str | None = None) -> None:
        """A key of the keyboard, by its name (`Tab`, `Enter`)."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        keys = {"key": key, "windowsVirtualKeyCode": codes[key]}
        await self.tell("Input.dispatchKeyEvent", type="keyDown", **keys, **({"text": text} if text else {}))
        await self.tell("Input.dispatchKeyEvent", type="keyUp", **keys)

    async def write(self, text: str) -> None:
        """Type into what has the focus."""
        await self.tell("Input.insertText", text=text)

    async def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        await self.tell("Emulation.setDeviceMetricsOverride", **metrics)

    async def prefer(self, scheme: str) -> None:
        """`light` or `dark`, as the person's system says."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.tell("Emulation.setEmulatedMedia", features=[feature])

    async def screenshot(self) -> bytes:
        """The whole page as PNG."""
        shot = await self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    async def close(self) -> None:
        self._listening.cancel()
        await self._socket.close()

    async def _listen(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answer(said)
            elif said["method"] == "Network.requestWillBeSent":
                self.requested.append(said["params"]["request"]["url"])
            elif said["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.complaints.append(said["params"]["entry"]["text"])

    def _answer(self, said: dict[str, Any]) -> None:
        future = self._answers.pop(said["id"])
        if future.done():  # nobody waits any more
            return
        if "error" in said:
            future.set_exception(RuntimeError(said["error"]["message"]))
        else:
            future.set_result(said["result"])


@asynccontextmanager
async def browser(program: str) -> AsyncIterator[Page]:
    """A browser with an empty profile and one tab; ends with the block."""
    profile = Path(tempfile.mkdtemp(prefix="browser-"))
    command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = await _port(profile, process)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/json/list") as answer:
                tab = next(target for target in await answer.json() if target["type"] == "page")
            socket = await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
            page = Page(socket)
            yield page
            await page.close()
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(profile, ignore_errors=True)


async def _port(profile: Path, process: "subprocess.Popen[bytes]") -> int:
    """Where it listens; it says so in a file of its profile."""
    file = profile / "DevToolsActivePort"
    async with asyncio.timeout(START_TIMEOUT_S):
        while not (file.exists() and file.read_text().strip()):
            assert process.poll() is None, "the browser ended at its start"
            await asyncio.sleep(0.05)
    return int(file.read_text().splitlines()[0])
