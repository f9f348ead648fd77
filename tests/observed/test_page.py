"""The playground of a server that asks for keys, and its strip of stages."""

import pytest

from tests.browser.asking import LAST, ask
from tests.browser.chromium import browser, find_chromium
from tests.observed.conftest import KEY, Observed

STAGES = ["Ingress", "MediaFetcher", "VideoDecoder", "Preprocessor", "Model"]
PROGRAM = find_chromium()


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
async def test_a_person_with_a_key_is_answered_and_sees_every_stage(observed: Observed) -> None:
    assert PROGRAM is not None
    async with browser(PROGRAM) as page:
        await page.open(f"{observed.server.url}/")
        await page.until("!document.getElementById('key-bar').hidden")
        await page.fill("#key", KEY)
        await page.evaluate("document.getElementById('key-bar').requestSubmit()")
        await page.until("!document.getElementById('send').disabled")
        await ask(page, [], "hello")
        command = await page.evaluate(f"document.querySelector('{LAST} .curl code').textContent")
        assert KEY not in command
        assert "authorization: Bearer $SLUICE_API_KEY" in command
        await page.until(
            "(rows => rows.length === 5 && rows.every(row => row.cells[1].innerText >= 1))"
            "([...document.querySelectorAll('#stages tr')])"
        )
        assert await page.texts("#stages th") == STAGES
        assert "requests refused" in await page.text("#refused")
