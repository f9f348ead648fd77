"""What does the second question about a video cost, and the eighth?

    python -m benchmarks turns [--quick] [--height 1080] [--seconds 60]

One user asks eight questions about one clip, by URL and as `data:`, with the conversation sent whole each time; beside
the same conversation about a text of as many tokens, and beside the same with `x-sluice-cache: off`. Clips that nobody
has sent before are asked about with and without it by turns: keeping must cost nothing where nothing comes again.
"""

import argparse
import asyncio
import base64
import statistics
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from benchmarks.kit.clips import ClipSpec, clip
from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.drive import client_session, served_model
from benchmarks.kit.load.host import MediaHost
from benchmarks.kit.servers import Server, sluice

QUESTION = "What does the second question about a video cost, and the eighth?"
KEPT, NOT_KEPT = "caches on", "caches off"
HEADERS = {KEPT: {}, NOT_KEPT: {"x-sluice-cache": "off"}}
_WORDS = "a red circle moves to the left while a bell rings twice "


@dataclass(frozen=True, slots=True)
class Told:
    """One answer as its client saw it."""

    ttft_s: float
    prompt_tokens: int
    cached_tokens: int
    uses: tuple[tuple[str, str], ...]
    """By stage: what `usage.sluice_cache` says of the clip."""
    text: str


@dataclass(slots=True)
class Conversation:
    """A long first part, and what was said about it."""

    session: aiohttp.ClientSession
    url: str
    mode: str
    model: str
    subject: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)

    async def ask(self, question: str, max_tokens: int) -> Told:
        """The next turn. Raises when it is not answered."""
        content: Any = question if self.messages else [self.subject, {"type": "text", "text": question}]
        self.messages.append({"role": "user", "content": content})
        body = {
            "model": self.model,
            "messages": self.messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        told = await _ask(self.session, self.url, self.mode, orjson.dumps(body))
        self.messages.append({"role": "assistant", "content": told.text})
        return told


async def _ask(session: aiohttp.ClientSession, url: str, mode: str, body: bytes) -> Told:
    began, first, text = asyncio.get_running_loop().time(), 0.0, ""
    usage: dict[str, Any] = {}
    headers = {"Content-Type": "application/json", **HEADERS[mode]}
    async with session.post(f"{url}/v1/chat/completions", data=body, headers=headers) as response:
        if response.status != 200:
            raise RuntimeError(f"a turn was not answered: {(await response.text())[:500]}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = orjson.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event.get("choices", ()):
                first = first or asyncio.get_running_loop().time()
                text += choice["delta"].get("content") or ""
    uses = tuple(use for item in usage.get("sluice_cache", {}).values() for use in item.items())
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Told(first - began, usage["prompt_tokens"], cached, uses, text)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("turns", QUESTION, argv, _options)
    height, seconds = (360, 10) if bench.quick else (bench.args.height, bench.args.seconds)
    data = clip(ClipSpec(height, seconds, 30), bench.seed).tobytes()
    server = Server("Sluice", bench.args.url) if bench.args.url else sluice()
    with MediaHost() as host, server:
        results = asyncio.run(_measure(bench, host, data, server.url))
    return bench.finish(_answer(results), results)


async def _measure(bench: Benchmark, host: MediaHost, data: bytes, url: str) -> dict[str, Any]:
    results: dict[str, Any] = {"clip_bytes": len(data), "turns": {}, "distinct_s": {}}
    async with client_session() as session:
        model = await served_model(session, url)
        for number, mode in enumerate(HEADERS):  # warm-up, with clips of its own
            await Conversation(session, url, mode, model, _subject(host, _distinct(data, number), "URL")).ask("?", 2)
        for name in ("URL", "data:", "text"):
            await _measure_turns(bench, host, data, url, session, model, name, results)
        rounds = 4 if bench.quick else 12
        distinct: dict[str, list[float]] = {mode: [] for mode in HEADERS}
        for number in range(rounds):
            for place, mode in enumerate(list(HEADERS)[:: 1 if number % 2 else -1]):
                subject = _subject(host, _distinct(data, 2 + 2 * number + place), "URL")
                told = await Conversation(session, url, mode, model, subject).ask("What is this?", 2)
                distinct[mode].append(told.ttft_s)
    _show(bench, results, distinct)
    results["distinct_s"] = {name: statistics.median(values) for name, values in distinct.items()}
    return results


async def _measure_turns(
    bench: Benchmark,
    host: MediaHost,
    data: bytes,
    url: str,
    session: aiohttp.ClientSession,
    model: str,
    name: str,
    results: dict[str, Any],
) -> None:
    turns = 4 if bench.quick else 8
    for mode in HEADERS:
        # A clip of this conversation's own: by `data:` it is not yet known by its URL.
        mine = _distinct(data, 1000 + len(name))
        length = results["turns"].get(f"URL, {mode}", [{"prompt_tokens": 0}])[0]["prompt_tokens"]
        subject = {"type": "text", "text": _text(length)} if name == "text" else _subject(host, mine, name)
        talk = Conversation(session, url, mode, model, subject)
        told = [await talk.ask(f"Question {number}: what is there?", 4) for number in range(1, turns + 1)]
        results["turns"][f"{name}, {mode}"] = [
            {
                "ttft_s": each.ttft_s,
                "prompt_tokens": each.prompt_tokens,
                "cached_tokens": each.cached_tokens,
                "uses": dict(each.uses),
            }
            for each in told
        ]


def _show(bench: Benchmark, results: dict[str, Any], distinct: dict[str, list[float]]) -> None:
    rows = []
    for title, turns in results["turns"].items():
        later = turns[1:]
        rows.append(
            [
                title,
                turns[0]["prompt_tokens"],
                turns[0]["ttft_s"],
                statistics.median(turn["ttft_s"] for turn in later),
                max(turn["ttft_s"] for turn in later),
                later[-1]["cached_tokens"],
                *(_tally(later, stage) for stage in ("fetch", "decode", "encode")),
            ]
        )
    columns = ["conversation", "prompt tokens", "TTFT turn 1 s", "later turns p50 s", "worst s", "cached tokens"]
    columns += ["fetched", "decoded", "encoded"]
    note = f"A clip of {results['clip_bytes'] / 1e6:.1f} MB. The last three: what the later turns had to do again."
    bench.table("Turns of one conversation", columns, rows, note)
    rows = [[name, len(values), statistics.median(values), min(values)] for name, values in distinct.items()]
    bench.table("Clips that nobody has sent before", ["requests", "clips", "TTFT p50 s", "least s"], rows)


def _tally(turns: Sequence[dict[str, Any]], stage: str) -> str:
    uses = [turn["uses"][stage] for turn in turns if stage in turn["uses"]]
    again = sum(use in ("miss", "off") for use in uses)
    asked = sum(use == "revalidated" for use in uses)
    return "" if not uses else f"{again} of {len(uses)}" + (f", {asked} revalidated" if asked else "")


def _answer(results: dict[str, Any]) -> str:
    def later_s(title: str) -> float:
        return float(statistics.median(turn["ttft_s"] for turn in results["turns"][title][1:]))

    text_s = later_s(f"text, {KEPT}")
    by = ", ".join(
        f"{name} {later_s(f'{name}, {KEPT}') / text_s:.2f}x (without caches"
        f" {later_s(f'{name}, {NOT_KEPT}') / text_s:.1f}x)"
        for name in ("URL", "data:")
    )
    on, off = results["distinct_s"][KEPT], results["distinct_s"][NOT_KEPT]
    return f"Later turns take, beside text of the same length: {by}; new clips {on / off:.3f}x with caches."


def _subject(host: MediaHost, data: bytes, name: str) -> dict[str, Any]:
    url = host.add("video", data) if name == "URL" else "data:video/mp4;base64," + base64.b64encode(data).decode()
    return {"type": "video_url", "video_url": {"url": url}}


def _distinct(data: bytes, number: int) -> bytes:
    """The clip with a box at its end that no player looks at: other bytes, the same work."""
    return data + struct.pack(">I4sQ", 16, b"free", number)


def _text(tokens: int) -> str:
    return (_WORDS * (tokens // len(_WORDS.split()) + 1))[: max(1, tokens * len(_WORDS) // len(_WORDS.split()))]


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="of a Sluice that runs already; default: one that is started here")
    parser.add_argument("--height", type=int, default=1080, help="of the clip's frames")
    parser.add_argument("--seconds", type=int, default=60, help="of the clip")


if __name__ == "__main__":
    main()
