"""The picture in the README: `python -m tests.browser.screenshot URL` asks a running demo and draws what it shows."""

import asyncio
import sys
import tempfile
from pathlib import Path

from deployments.demo.samples import write_samples
from tests.browser.chromium import browser, find_chromium

PICTURE = Path(__file__).parent / "playground.png"
WIDTH, HEIGHT = 1120, 900


async def draw(url: str, clip: str = "red-circle-left.mp4", question: str = "Which way does it move?") -> bytes:
    """PNG of the page after a true answer about one of the samples."""
    program = find_chromium()
    assert program is not None, "a Chromium is needed"
    with tempfile.TemporaryDirectory() as folder:
        list(write_samples(Path(folder)))
        async with browser(program) as page:
            await page.resize(WIDTH, HEIGHT)
            await page.prefer("light")
            await page.open(url)
            await page.until("document.getElementById('model').dataset.id !== undefined")
            await page.drop("#drop", [Path(folder) / clip])
            await page.until("document.querySelectorAll('#items li').length === 1")
            await page.evaluate(f"document.getElementById('question').value = {question!r}")
            await page.evaluate("document.getElementById('ask').requestSubmit()")
            await page.until("document.querySelectorAll('#thumbnails canvas').length >= 4")
            await page.until(
                "(rows => rows.length === 5 && rows.every(row => row.cells[1].innerText >= 1))"
                "([...document.querySelectorAll('#stages tr')])"
            )
            return await page.screenshot()


if __name__ == "__main__":
    PICTURE.write_bytes(asyncio.run(draw(sys.argv[1])))
