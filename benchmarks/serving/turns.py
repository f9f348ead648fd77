"""What does the second question about a video cost, and the eighth?

    python -m benchmarks turns [--quick] [--height 1080] [--seconds 60]

One user asks eight questions about one clip, by URL and as `data:`, with the conversation sent whole each time; beside
the same conversation about a text of as many tokens, and beside the same with `x-sluice-cache: off`. Clips that nobody
has sent before are asked about with and without it by turns: keeping must cost nothing where nothing comes again. What
is kept of files has room for a few clips here, so that it is full as it is after a while of anybody's work: memory that
a process touches for the first time costs what keeping in it does not.
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
KEPT_CLIPS = 4
"""Of the size of the one that is asked about."""
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
    timing_ms: dict[str, float]
    """By stage, as the server tells it."""


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
    return Told(first - began, usage["prompt_tokens"], cached, uses, text, usage["sluice_timing_ms"])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("turns", QUESTION, argv, _options)
    height, seconds = (360, 10) if bench.quick else (bench.args.height, bench.args.seconds)
    data = clip(ClipSpec(height, seconds, 30), bench.seed).tobytes()
    server = Server("Sluice", bench.args.url) if bench.args.url else sluice(args=_settings(data), launcher=True)
    with MediaHost() as host, server:
        results = asyncio.run(_measure(bench, host, data, server.url))
    return bench.finish(_answer(results), results)


async def _measure(bench: Benchmark, host: MediaHost, data: bytes, url: str) -> dict[str, Any]:
    results: dict[str, Any] = {"clip_bytes": len(data), "turns": {}, "distinct_s": {}}
    async with client_session() as session:
        model = await served_model(session, url)
        for number, mode in enumerate(HEADERS):  # warm-up, with clips of its own
            await Conversation(session, url, mode, model, _subject(host, _distinct(data, number), "URL")).ask("?", 2)
        for number in range(1 if bench.quick else 2):
            for mode in HEADERS:
                await _measure_turns(
                    bench, Talks(session, url, mode, model, host), _distinct(data, 1000 + number), results
                )
        rounds = 4 if bench.quick else 12
        distinct: dict[str, list[Told]] = {mode: [] for mode in HEADERS}
        for number in range(rounds):
            for place, mode in enumerate(list(HEADERS)[:: 1 if number % 2 else -1]):
                subject = _subject(host, _distinct(data, 2 + 2 * number + place), "URL")
                told = await Conversation(session, url, mode, model, subject).ask("What is this?", 2)
                distinct[mode].append(told)
        results["body_s"] = await _body_alone(session, url, _subject(host, data, "data:"))
    _show(bench, results, distinct)
    results["distinct_s"] = {name: statistics.median(t.ttft_s for t in told) for name, told in distinct.items()}
    return results


async def _body_alone(session: aiohttp.ClientSession, url: str, subject: dict[str, Any]) -> float:
    """Seconds until a body with a clip has been read by whoever then refuses it, since it asks for no model here."""
    body = orjson.dumps({"model": "nobody's", "messages": [{"role": "user", "content": [subject]}]})
    seconds = []
    for _ in range(7):
        began = asyncio.get_running_loop().time()
        async with session.post(
            f"{url}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status == 404, await response.text()
        seconds.append(asyncio.get_running_loop().time() - began)
    return statistics.median(seconds)


@dataclass(frozen=True, slots=True)
class Talks:
    """Conversations about one clip, and about a text."""

    session: aiohttp.ClientSession
    url: str
    mode: str
    model: str
    host: MediaHost

    def about(self, subject: dict[str, Any]) -> Conversation:
        return Conversation(self.session, self.url, self.mode, self.model, subject)


async def _measure_turns(bench: Benchmark, talks: Talks, data: bytes, results: dict[str, Any]) -> None:
    """A turn of each conversation after the other, so that what else the machine does is all of theirs."""
    told: dict[str, list[Told]] = {}
    conversations: dict[str, Conversation] = {}
    for turn in range(1, (4 if bench.quick else 8) + 1):
        for name in ("URL", "data:", "text"):
            if turn == 1 and name == "text":
                subject: dict[str, Any] = {"type": "text", "text": _text(told["URL"][0].prompt_tokens)}
                conversations[name] = talks.about(subject)
            elif turn == 1:
                # A clip of this conversation's own: by `data:` it is not yet known by its URL.
                conversations[name] = talks.about(_subject(talks.host, _distinct(data, len(name)), name))
            told.setdefault(name, []).append(await conversations[name].ask(f"Question {turn}: what is there?", 4))
    for name, turns in told.items():
        results["turns"].setdefault(f"{name}, {talks.mode}", []).extend(
            {
                "turn": number,
                "ttft_s": each.ttft_s,
                "prompt_tokens": each.prompt_tokens,
                "cached_tokens": each.cached_tokens,
                "uses": dict(each.uses),
            }
            for number, each in enumerate(turns, 1)
        )


def _show(bench: Benchmark, results: dict[str, Any], distinct: dict[str, list[Told]]) -> None:
    rows = []
    for title, turns in results["turns"].items():
        later = [turn for turn in turns if turn["turn"] > 1]
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
    note += f" A body with it that is read and then refused takes {results['body_s'] * 1e3:.0f} ms."
    bench.table("Turns of one conversation", columns, rows, note)
    stages = list(distinct[KEPT][0].timing_ms)
    rows = []
    for name, told in distinct.items():
        seconds = [each.ttft_s for each in told]
        took = [statistics.median(each.timing_ms[stage] for each in told) for stage in stages]
        rows.append([name, len(told), statistics.median(seconds), min(seconds), *took])
    columns = ["requests", "clips", "TTFT p50 s", "least s", *(f"{stage} ms" for stage in stages)]
    bench.table("Clips that nobody has sent before", columns, rows)


def _tally(turns: Sequence[dict[str, Any]], stage: str) -> str:
    uses = [turn["uses"][stage] for turn in turns if stage in turn["uses"]]
    again = sum(use in ("miss", "off") for use in uses)
    asked = sum(use == "revalidated" for use in uses)
    return "" if not uses else f"{again} of {len(uses)}" + (f", {asked} revalidated" if asked else "")


def _answer(results: dict[str, Any]) -> str:
    def later_s(title: str) -> float:
        turns = results["turns"][title]
        return float(statistics.median(turn["ttft_s"] for turn in turns if turn["turn"] > 1))

    text_s = later_s(f"text, {KEPT}")
    by = ", ".join(
        f"{name} {later_s(f'{name}, {KEPT}') / text_s:.2f}x (without caches"
        f" {later_s(f'{name}, {NOT_KEPT}') / text_s:.1f}x)"
        for name in ("URL", "data:")
    )
    on, off = results["distinct_s"][KEPT], results["distinct_s"][NOT_KEPT]
    return (
        f"Later turns take, beside text of the same length: {by}; the body of one by `data:` takes"
        f" {results['body_s'] / text_s:.2f}x by itself; new clips {on / off:.3f}x with caches."
    )


def _subject(host: MediaHost, data: bytes, name: str) -> dict[str, Any]:
    url = host.add("video", data) if name == "URL" else "data:video/mp4;base64," + base64.b64encode(data).decode()
    return {"type": "video_url", "video_url": {"url": url}}


def _distinct(data: bytes, number: int) -> bytes:
    """The clip with a box at its end that no player looks at: other bytes, the same work."""
    return data + struct.pack(">I4sQ", 16, b"free", number)


def _text(tokens: int) -> str:
    return (_WORDS * (tokens // len(_WORDS.split()) + 1))[: max(1, tokens * len(_WORDS) // len(_WORDS.split()))]


def _settings(clip_file: bytes) -> dict[str, Any]:
    return {"media": {"cache_bytes": KEPT_CLIPS * (len(clip_file) + 64)}}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="of a Sluice that runs already; default: one that is started here")
    parser.add_argument("--height", type=int, default=1080, help="of the clip's frames")
    parser.add_argument("--seconds", type=int, default=60, help="of the clip")


if __name__ == "__main__":
    main()
