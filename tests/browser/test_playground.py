"""The page with the running application: answers are true, and everything about them is shown."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from tests.browser.asking import LAST, ask, attach, begin, done, fault, opened
from tests.browser.chromium import Page
from tests.support.application import RunningApp

CLIP, PICTURE, SOUND = "red-circle-left.mp4", "purple-square.png", "2-low-beeps.wav"


@pytest_asyncio.fixture
async def page(blank: Page, app: RunningApp) -> Page:
    """The playground of the application."""
    await opened(blank, f"{app.url}/")
    return blank


async def counted(page: Page) -> dict[str, int]:
    """Tokens of the last answer, as they are shown."""
    chips = [chip.split(" ") for chip in await page.texts(f"{LAST} .counts:not(.reuse) span")]
    return {kind: int(count) for kind, count in chips}


async def test_a_clip_gets_a_true_answer_and_the_frames_it_came_from(page: Page, samples: Path) -> None:
    assert await ask(page, [samples / CLIP], "Which way does it move?") == "left"
    await page.until("document.querySelectorAll('.thumbnails canvas').length >= 4")
    times = [float(shown.removesuffix(" s")) for shown in await page.texts(".thumbnails li")]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < 1.6
    # The circle goes from the right to the left: the drawn frames are the clip's, at these times.
    red = (
        "(canvas => { const {width: w, height: h} = canvas;"
        " const {data} = canvas.getContext('2d').getImageData(0, 0, w, h); let sum = 0, count = 0;"
        " for (let i = 0; i < w * h; i++) if (data[4 * i] > 150) { sum += i % w; count++; } return sum / count / w; })"
    )
    places = await page.evaluate(f"[...document.querySelectorAll('.thumbnails canvas')].map({red})")
    assert places == sorted(places, reverse=True)
    assert places[0] - places[-1] > 0.2


async def test_a_second_question_about_a_picture_is_answered_truly(page: Page, samples: Path) -> None:
    assert await ask(page, [samples / PICTURE], "What colour is the shape?") == "purple"
    assert await ask(page, [], "What shape is it?") == "square"
    assert (await counted(page))["image"] > 0


async def test_the_waterfall_and_the_counts_say_what_each_medium_cost(page: Page, samples: Path) -> None:
    await ask(page, [samples / CLIP, samples / PICTURE, samples / SOUND], "What colour is the shape?")
    rows = [row.split("\n") for row in await page.texts(f"{LAST} .waterfall li")]
    assert [row[0] for row in rows] == [
        "admission", "fetch", "decode video", "preprocess", "queue", "encode", "prefill", "decode tokens",
    ]  # fmt: skip
    assert all(float(row[-1].removesuffix(" ms")) >= 0 for row in rows)
    counts = await counted(page)
    counts.pop("reused", None)  # what an earlier test has asked of the same application
    assert list(counts) == ["text", "image", "video", "audio", "answer"]
    assert all(count > 0 for count in counts.values())


async def test_the_shown_curl_gives_the_shown_answer(page: Page, samples: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    awkward = shutil.copy(samples / CLIP, tmp_path / 'it\'s $HOME `a` "clip".mp4')
    await page.fill("#system", "Say `it` for $1.")
    await ask(page, [Path(awkward)], 'Which way does it move? $HOME `id` \\ "left"?')
    answer = await ask(page, [], "What colour is the shape?")
    command = await page.evaluate(f"document.querySelector('{LAST} .curl code').textContent")
    environment = {"PATH": os.environ["PATH"], "HOME": "expanded"}
    shell = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=True
    )
    said = orjson.loads(shell.stdout)
    assert said["choices"][0]["message"]["content"] == answer
    assert said["usage"]["prompt_tokens_details"]["video_tokens"] == (await counted(page))["video"]


async def test_what_camera_and_microphone_record_is_taken(page: Page) -> None:
    await page.click("#snap")
    await page.until("document.querySelectorAll('#items img').length === 1")
    for button, item in (("record-sound", "audio"), ("record-clip", "video")):
        await page.click(f"#{button}")
        await page.until(f"document.getElementById('{button}').getAttribute('aria-label') === 'Stop recording'")
        await asyncio.sleep(1.5)
        await page.click(f"#{button}")
        await page.until(f"document.querySelectorAll('#items {item}').length === 1")
    await ask(page, [], "What do you see?")
    counts = await counted(page)
    assert all(counts[kind] > 0 for kind in ("image", "video", "audio"))
    await page.until("document.querySelectorAll('.thumbnails canvas').length >= 2")


async def test_a_refusal_is_told_in_the_servers_words(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture at all")
    await attach(page, [broken])
    await begin(page, "What colour is the shape?")
    assert "is not an image" in await fault(page)
    await page.evaluate(f"[...document.querySelectorAll('{LAST} .actions button')].at(-1).click()")
    assert await page.texts("#items .name") == ["broken.png"]  # back in the box, to be changed
    await page.click("#items .remove")
    await begin(page, "What do you see?")
    await done(page)
    assert await page.text(f"{LAST} .answer") != ""


async def test_the_stages_are_watched(page: Page) -> None:
    await page.until(
        "(rows => rows.length === 5 && rows.every(row => row.cells[1].innerText >= 1))"
        "([...document.querySelectorAll('#stages tr')])"
    )
