"""What a person does on the page, step by step: attach, ask, read."""

from collections.abc import Sequence
from pathlib import Path

from tests.browser.chromium import Page

LAST = ".exchange:last-child"


async def opened(page: Page, url: str) -> None:
    """Load the page and wait until it knows the server."""
    await page.open(url)
    await page.until("!document.getElementById('send').disabled")


async def attach(page: Page, files: Sequence[Path]) -> None:
    before = await page.evaluate("document.querySelectorAll('#items li').length")
    await page.drop("#ask", files)
    await page.until(f"document.querySelectorAll('#items li').length === {before + len(files)}")


async def begin(page: Page, question: str) -> None:
    """Ask, without waiting for the answer."""
    await page.fill("#question", question)
    await page.evaluate("document.getElementById('ask').requestSubmit()")


async def done(page: Page) -> None:
    """Wait until nothing is under way and the last answer is shown."""
    await page.until(f"document.querySelector('{LAST}') !== null")
    await page.until(f"!document.querySelector('{LAST}').hasAttribute('aria-busy')")


async def ask(page: Page, files: Sequence[Path], question: str) -> str:
    """Drop the files, ask, and return the answer once all about it is on the page."""
    if files:
        await attach(page, files)
    await begin(page, question)
    await done(page)
    assert await page.text(f"{LAST} .fault") == ""
    return await page.text(f"{LAST} .answer")


async def fault(page: Page) -> str:
    """Wait for the last question to fail, and return what the page says of it."""
    await page.until(f"!!document.querySelector('{LAST} .fault')?.textContent")
    return await page.text(f"{LAST} .fault")
