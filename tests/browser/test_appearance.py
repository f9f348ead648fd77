"""The page for every eye, hand and screen: names, focus, contrast, targets, phones; and that it asks nobody else."""

from pathlib import Path

import pytest

from tests.browser.asking import ask, attach
from tests.browser.chromium import Page
from tests.browser.conftest import FakeServer

CLIP, PICTURE, SOUND = "red-circle-left.mp4", "purple-square.png", "2-low-beeps.wav"
ALL = (CLIP, PICTURE, SOUND)
DRAWN = "document.querySelectorAll('.thumbnails canvas').length === 2"
CONTRAST = (
    "((e, property, from) => { const parse = c => c.match(/[\\d.]+/g).map(Number);"
    " const light = c => { const [r, g, b] = parse(c).map(v => (v /= 255) <= 0.04045 ? v / 12.92 :"
    " ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };"
    " let back = from; while (parse(getComputedStyle(back).backgroundColor)[3] === 0) back = back.parentElement;"
    " const a = light(getComputedStyle(e)[property]), b = light(getComputedStyle(back).backgroundColor);"
    " return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); })"
)


async def used(page: Page, samples: Path) -> None:
    """Bring everything onto the page that it can show."""
    await ask(page, [samples / name for name in ALL], "What is it?")
    await page.until(DRAWN)
    await page.evaluate("document.querySelector('#panel details').open = true")
    await attach(page, [samples / PICTURE])


async def test_everything_can_be_reached_and_used_by_keyboard(page: Page, samples: Path) -> None:
    await page.until("document.querySelectorAll('#samples button').length > 0")
    reached = []
    for _ in range(13):
        await page.press("Tab")
        reached.append(await page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert await page.evaluate(
            "(e => [e, e.closest('.box')].some(x => x && (getComputedStyle(x).outlineStyle !== 'none'"
            " || getComputedStyle(x).boxShadow !== 'none')))(document.activeElement)"
        ), f"nothing shows that {reached[-1]} has the focus"
    buttons = ["question", "choose", "snap", "record-sound", "record-clip", "send"]
    assert reached == ["new", "A", *["BUTTON"] * 5, *buttons]
    await page.evaluate("document.getElementById('question').focus()")
    await page.write("What is it?")
    await page.press("Enter", text="\r")
    await page.until("document.querySelector('.answer')?.innerText === 'Hello'")


async def test_every_control_and_picture_has_a_name(page: Page, samples: Path) -> None:
    await used(page, samples)
    tree = await page.tell("Accessibility.getFullAXTree")
    named = {"button", "textbox", "spinbutton", "checkbox", "link", "img", "image", "form", "region", "table"}
    nodes = [node for node in tree["nodes"] if not node["ignored"] and node["role"]["value"] in named]
    nameless = [node["role"]["value"] for node in nodes if not node.get("name", {}).get("value")]
    assert len(nodes) > 25
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_and_edges_stand_out_from_their_ground_by_day_and_by_night(
    page: Page, scheme: str, samples: Path
) -> None:
    await page.prefer(scheme)
    await used(page, samples)
    await page.drop("#ask", [Path(__file__)])  # refused, in words
    seen = "p, h1, h2, h3, th, td, dt, dd, label, summary, button, textarea, figcaption, .ms, .stage, .answer, code"
    shown = f"[...document.querySelectorAll('{seen}')].filter(e => e.innerText && e.checkVisibility())"
    texts = await page.evaluate(f"{shown}.map(e => [e.tagName + '#' + e.id, {CONTRAST}(e, 'color', e)])")
    assert len(texts) > 40
    assert [entry for entry in texts if entry[1] < 4.5] == []  # WCAG AA for text
    framed = "[...document.querySelectorAll('nav .button, nav button, .actions button, input, #panel textarea, .box')]"
    edges = await page.evaluate(
        f"{framed}.filter(e => e.checkVisibility() && e.type !== 'checkbox')"
        f".map(e => [e.id, {CONTRAST}(e, 'borderTopColor', e.parentElement)])"
    )
    assert len(edges) > 8
    assert [entry for entry in edges if entry[1] < 3] == []  # WCAG AA for controls
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(ground) < 128) == (scheme == "dark")


async def test_a_phone_shows_all_of_it_without_scrolling_sideways(page: Page, samples: Path) -> None:
    await page.resize(360, 740, mobile=True)
    await used(page, samples)
    assert await page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    log = "(log => [log.scrollWidth, log.clientWidth])(document.getElementById('log'))"
    width, room = await page.evaluate(log)
    assert width == room
    assert not await page.evaluate("document.getElementById('panel').checkVisibility()")
    await page.click("#panel-toggle")
    assert await page.evaluate("document.getElementById('system').checkVisibility()")
    panel = "(panel => [panel.scrollWidth, panel.clientWidth])(document.getElementById('panel'))"
    width, room = await page.evaluate(panel)
    assert width == room


async def test_fingers_hit_every_control_of_a_phone(page: Page, samples: Path) -> None:
    await page.resize(360, 740, mobile=True)
    await used(page, samples)
    await page.click("#panel-toggle")
    controls = "[...document.querySelectorAll('button, nav .button, summary, input:not([type=checkbox]), .check')]"
    sizes = await page.evaluate(
        f"{controls}.filter(e => e.checkVisibility()).map(e => [e.id || e.textContent, e.getBoundingClientRect()])"
        ".map(([name, {width, height}]) => [name, width, height])"
    )
    assert len(sizes) > 15
    assert [entry for entry in sizes if min(entry[1:]) < 44] == []  # WCAG AAA for targets


async def test_the_page_asks_nobody_but_its_server_and_breaks_no_rule_of_its_policy(
    page: Page, server: FakeServer, samples: Path
) -> None:
    await used(page, samples)
    own = (server.url, "data:", f"blob:{server.url}")
    assert [url for url in page.requested if not url.startswith(own)] == []
    assert page.complaints == []


async def test_the_documents_are_shown_with_the_servers_own_address(blank: Page, server: FakeServer) -> None:
    await blank.open(f"{server.url}docs")
    await blank.until("document.querySelectorAll('#document pre').length > 5")
    shown = await blank.text("#document")
    assert f"{server.url}v1" in shown
    assert "localhost:8000" not in shown
    assert await blank.evaluate("document.querySelectorAll('#document p br').length") == 0
    assert blank.complaints == []
