"""The pictures of the page: `python -m tests.browser.screenshot URL [FOLDER]` asks a running demo and draws the page.

Without a folder, the README's picture alone.
"""

import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deployments.demo.samples import write_samples
from tests.browser.asking import ask, opened
from tests.browser.chromium import browser, find_chromium

README_PICTURE = Path(__file__).parent / "playground.png"


@dataclass(frozen=True)
class Screen:
    name: str
    width: int
    height: int
    scheme: str = "light"
    mobile: bool = False


DESKTOP = Screen("desktop", 1280, 900)
SCREENS = (DESKTOP, Screen("dark", 1280, 900, "dark"), Screen("phone", 390, 844, mobile=True))


async def draw(url: str, screen: Screen) -> dict[str, bytes]:
    """PNG of the page as it opens, and after a true answer about a sample and a second question."""
    program = find_chromium()
    assert program is not None, "a Chromium is needed"
    with tempfile.TemporaryDirectory() as samples:
        list(write_samples(Path(samples)))
        async with browser(program) as page:
            await page.resize(screen.width, screen.height, mobile=screen.mobile)
            await page.prefer(screen.scheme)
            await opened(page, url)
            await asyncio.sleep(1.0)  # clips among the samples draw their pictures
            begin = await page.screenshot()
            await ask(page, [Path(samples) / "red-circle-left.mp4"], "Which way does it move?")
            await page.until("document.querySelectorAll('.thumbnails canvas').length >= 4")
            await page.until(
                "(rows => rows.length === 5 && rows.every(row => row.cells[1].innerText >= 1))"
                "([...document.querySelectorAll('#stages tr')])"
            )
            answer = await page.screenshot()
            await ask(page, [], "What colour is the shape?")
            return {"begin": begin, "answer": answer, "second": await page.screenshot()}


def main() -> None:
    url, *folders = sys.argv[1:]
    for folder in map(Path, folders):
        for screen in SCREENS:
            for moment, picture in asyncio.run(draw(url, screen)).items():
                (folder / f"{screen.name}-{moment}.png").write_bytes(picture)
    if not folders:
        README_PICTURE.write_bytes(asyncio.run(draw(url, DESKTOP))["answer"])


if __name__ == "__main__":
    main()
