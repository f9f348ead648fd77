"""The page at `/`, in a browser: what is dropped there is answered truly, and everything about the answer is shown."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from deployments.demo.samples import write_samples
from tests.browser.chromium import Page, browser, find_chromium
from tests.support.application import RunningApp

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")

CLIP, PICTURE, SOUND = "red-circle-left.mp4", "purple-square.png", "2-low-beeps.wav"


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's samples, one of them under a name that a shell would stumble over."""
    folder = tmp_path_factory.mktemp("samples")
    list(write_samples(folder))
    return folder


@pytest_asyncio.fixture
async def page(app: RunningApp) -> AsyncIterator[Page]:
    """The playground, loaded, on a desktop's screen."""
    assert PROGRAM is not None
    async with browser(PROGRAM) as page:
        await page.resize(1280, 900)
        await page.open(f"{app.url}/")
        await page.until("document.getElementById('model').dataset.id !== undefined")
        yield page


async def ask(page: Page, files: list[Path], question: str) -> str:
    """Drop the files, ask, and return the answer once all about it is on the page."""
    if files:
        await page.drop("#drop", files)
        await page.until(f"document.querySelectorAll('#items li').length === {len(files)}")
    await page.evaluate(f"document.getElementById('question').value = {orjson.dumps(question).decode()}")
    await page.evaluate("document.getElementById('ask').requestSubmit()")
    await page.until("!document.getElementById('details').hidden || document.getElementById('error').textContent")
    assert await page.text("#error") == ""
    return await page.text("#answer")


async def test_a_clip_gets_a_true_answer_and_the_frames_it_came_from(page: Page, samples: Path) -> None:
    assert await ask(page, [samples / CLIP], "Which way does it move?") == "left"
    await page.until("document.querySelectorAll('#thumbnails canvas').length >= 4")
    times = [float(shown.removesuffix(" s")) for shown in await page.texts("#thumbnails li")]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < 1.6
    # The circle goes from the right to the left: the drawn frames are the clip's, at these times.
    red = (
        "(canvas => { const {width: w, height: h} = canvas;"
        " const {data} = canvas.getContext('2d').getImageData(0, 0, w, h); let sum = 0, count = 0;"
        " for (let i = 0; i < w * h; i++) if (data[4 * i] > 150) { sum += i % w; count++; } return sum / count / w; })"
    )
    places = await page.evaluate(f"[...document.querySelectorAll('#thumbnails canvas')].map({red})")
    assert places == sorted(places, reverse=True)
    assert places[0] - places[-1] > 0.2


async def test_a_picture_gets_a_true_answer_as_it_streams(page: Page, samples: Path) -> None:
    await page.evaluate(
        "window.seen = new Set(); new MutationObserver(() => seen.add(document.getElementById('answer').textContent))"
        ".observe(document.getElementById('answer'), {childList: true, characterData: true, subtree: true})"
    )
    assert await ask(page, [samples / PICTURE], "What colour is the shape?") == "purple"
    partial = await page.evaluate("[...seen]")
    assert all("purple".startswith(text) for text in partial)


async def test_the_waterfall_and_the_counts_say_what_each_medium_cost(page: Page, samples: Path) -> None:
    await ask(page, [samples / CLIP, samples / PICTURE, samples / SOUND], "What colour is the shape?")
    rows = [row.split("\n") for row in await page.texts("#waterfall li")]
    assert [row[0] for row in rows] == [
        "admission", "fetch", "decode video", "preprocess", "queue", "encode", "prefill", "decode tokens",
    ]  # fmt: skip
    assert all(float(row[-1].removesuffix(" ms")) >= 0 for row in rows)
    counts = dict(chip.split(" ") for chip in await page.texts("#counts span"))
    assert list(counts) == ["text", "image", "video", "audio", "answer"]
    assert all(int(count) > 0 for count in counts.values())


async def test_the_shown_curl_gives_the_shown_answer(page: Page, samples: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    awkward = shutil.copy(samples / CLIP, tmp_path / 'it\'s $HOME `a` "clip".mp4')
    answer = await ask(page, [Path(awkward)], 'Which way does it move? $HOME `id` \\ "left"?')
    command = await page.evaluate("document.getElementById('curl').textContent")
    environment = {"PATH": os.environ["PATH"], "HOME": "expanded"}
    shell = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=True
    )
    assert orjson.loads(shell.stdout)["choices"][0]["message"]["content"] == answer


async def test_what_camera_and_microphone_record_is_taken(page: Page) -> None:
    await page.evaluate("document.getElementById('snap').click()")
    await page.until("document.querySelectorAll('#items img').length === 1")
    for button, item in (("record-sound", "audio"), ("record-clip", "video")):
        click = f"document.getElementById('{button}').click()"
        await page.evaluate(click)
        await page.until(f"document.getElementById('{button}').textContent === 'stop recording'")
        await asyncio.sleep(1.5)
        await page.evaluate(click)
        await page.until(f"document.querySelectorAll('#items {item}').length === 1")
    await ask(page, [], "What do you see?")
    counts = dict(chip.split(" ") for chip in await page.texts("#counts span"))
    assert all(int(counts[kind]) > 0 for kind in ("image", "video", "audio"))
    await page.until("document.querySelectorAll('#thumbnails canvas').length >= 2")


async def test_a_refusal_is_told_in_the_servers_words(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture at all")
    await page.drop("#drop", [broken])
    await page.until("document.querySelectorAll('#items li').length === 1")
    await page.evaluate("document.getElementById('ask').requestSubmit()")
    await page.until("document.getElementById('error').textContent")
    assert "is not an image" in await page.text("#error")
    assert await page.evaluate("!document.getElementById('send').disabled")


async def test_the_page_asks_nobody_but_its_server_and_breaks_no_rule_of_its_policy(
    page: Page, app: RunningApp, samples: Path
) -> None:
    await ask(page, [samples / CLIP, samples / PICTURE, samples / SOUND], "What colour is the shape?")
    own = (f"{app.url}/", "data:", f"blob:{app.url}/")
    assert [url for url in page.requested if not url.startswith(own)] == []
    assert page.complaints == []


async def test_everything_can_be_reached_and_used_by_keyboard(page: Page, samples: Path) -> None:
    reached = []
    for _ in range(7):
        await page.press("Tab")
        reached.append(await page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert await page.evaluate(
            "(e => [e, e.nextElementSibling].some(x => x && getComputedStyle(x).outlineStyle !== 'none'))"
            "(document.activeElement)"
        ), f"nothing shows that {reached[-1]} has the focus"
    assert reached == ["file", "snap", "record-sound", "record-clip", "question", "SUMMARY", "send"]
    await page.evaluate("document.getElementById('question').focus()")
    await page.evaluate("document.getElementById('question').select()")
    await page.write("What colour is the shape?")
    await page.drop("#drop", [samples / PICTURE])
    await page.until("document.querySelectorAll('#items li').length === 1")
    await page.press("Enter", text="\r")
    await page.until("!document.getElementById('details').hidden")
    assert await page.text("#answer") == "purple"


async def test_every_control_and_picture_has_a_name(page: Page, samples: Path) -> None:
    await ask(page, [samples / CLIP, samples / PICTURE, samples / SOUND], "What colour is the shape?")
    await page.evaluate("document.querySelector('details').open = true")
    await page.until("document.querySelectorAll('#thumbnails canvas').length >= 4")
    tree = await page.tell("Accessibility.getFullAXTree")
    named = {"button", "textbox", "spinbutton", "checkbox", "link", "img", "image", "form", "region", "table"}
    nodes = [node for node in tree["nodes"] if not node["ignored"] and node["role"]["value"] in named]
    nameless = [node["role"]["value"] for node in nodes if not node.get("name", {}).get("value")]
    assert len(nodes) > 15
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_from_its_ground_by_day_and_by_night(page: Page, scheme: str, samples: Path) -> None:
    await page.prefer(scheme)
    await ask(page, [samples / PICTURE], "What colour is the shape?")
    ratio = (
        "(e => { const parse = c => c.match(/[\\d.]+/g).map(Number);"
        " const light = c => { const [r, g, b] = parse(c).map(v => (v /= 255) <= 0.04045 ? v / 12.92 :"
        " ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };"
        " let back = e; while (parse(getComputedStyle(back).backgroundColor)[3] === 0) back = back.parentElement;"
        " const a = light(getComputedStyle(e).color), b = light(getComputedStyle(back).backgroundColor);"
        " return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); })"
    )
    seen = "p, h1, h2, h3, th, td, label, summary, button:not(:disabled), textarea, .ms, code"
    shown = f"[...document.querySelectorAll('{seen}')].filter(e => e.innerText && e.checkVisibility())"
    ratios = await page.evaluate(f"{shown}.map(e => [e.tagName + '#' + e.id, {ratio}(e)])")
    assert len(ratios) > 20
    assert [entry for entry in ratios if entry[1] < 4.5] == []  # WCAG AA for text
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(ground) < 128) == (scheme == "dark")


async def test_a_phone_shows_all_of_it_without_scrolling_sideways(page: Page, samples: Path) -> None:
    await page.resize(360, 740, mobile=True)
    await ask(page, [samples / CLIP, samples / PICTURE, samples / SOUND], "What colour is the shape?")
    await page.evaluate("document.querySelector('details').open = true")
    await page.until("document.querySelectorAll('#thumbnails canvas').length >= 4")
    assert await page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
