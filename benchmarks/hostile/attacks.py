"""The kinds of attacks, each one small request (or connection) after the other, from few addresses. What an attack gets
in answer does not matter; what it costs everybody else does.
"""

import asyncio
import base64
import contextlib
import functools
import io
import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from PIL import Image
from transformers import AutoTokenizer

from benchmarks.hostile.slow_host import SlowHost
from benchmarks.kit.harness import in_subprocess
from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model
from tests.support.hostile.bombs import bombs_of

MIB = 2**20
ADDRESSES = 4
"""From which attackers come; users have others."""
PAUSE_S = 0.5
"""Between two attempts of one attacker."""
_GIVE_UP_S = 20.0
_MAKING_S, _ENDING_S = 120.0, 30.0
"""The longest that attackers may take before and after their time."""

Fields = dict[str, Any]


@dataclass
class Attacker:
    """What all kinds use."""

    session: aiohttp.ClientSession
    url: str
    host: SlowHost
    half_character: int
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    answers: "Counter[str]" = field(default_factory=Counter)

    async def ask(self, kind: str, content: Any = "hi", headers: dict[str, str] | None = None, **fields: Any) -> None:
        message = {"role": "user", "content": content}
        await self.send(kind, json.dumps({"model": "demo", "max_tokens": 4, "messages": [message], **fields}), headers)

    async def send(self, kind: str, body: Any, headers: dict[str, str] | None = None) -> None:
        sent = {"content-type": "application/json", "x-forwarded-for": self.address(), **(headers or {})}
        url, timeout = f"{self.url}/v1/chat/completions", aiohttp.ClientTimeout(total=_GIVE_UP_S)
        try:
            async with self.session.post(url, data=body, headers=sent, timeout=timeout) as response:
                await response.read()
                self.answers[f"{kind}: {response.status}"] += 1
        except TimeoutError:
            self.answers[f"{kind}: gave up"] += 1
        except (aiohttp.ClientError, OSError):
            self.answers[f"{kind}: cut"] += 1

    def address(self) -> str:
        return f"10.66.0.{next(self.numbers) % ADDRESSES}"


def _part(kind: str, url: str) -> Fields:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def _schema(schema: Any) -> Fields:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


async def ids(a: Attacker) -> None:
    """Ids outside the vocabulary."""
    await a.ask("ids", logit_bias={"999999999": 1})
    await a.ask("ids", stop_token_ids=[2**31 - 1], min_tokens=2)


async def grammars(a: Attacker) -> None:
    """Schemas that explode, never the same one twice."""
    number = 2 * next(a.numbers) + 1
    options = {f"p{number}_{i}": {"type": "string"} for i in range(4000)}
    schemas = [
        {"type": "integer", "multipleOf": 15_485_863 + 2 * number},
        {"const": f"{number}" + "ab" * 900_000},
        {"type": "object", "properties": options},
        {"type": "string", "minLength": 200_000 + number, "maxLength": 400_000},
    ]
    await a.ask("grammars", response_format=_schema(random.choice(schemas)))


async def nesting(a: Attacker) -> None:
    """Bodies that are nested deeply, where they are read and where they are passed on."""
    deep = '{"a":' * 480 + "1" + "}" * 480
    for name in ("mm_processor_kwargs", "response_format"):
        body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}]})
        await a.send("nesting", f'{body[:-1]}, "{name}": {deep}}}')


async def media_hosts(a: Attacker) -> None:
    """Hosts that promise, drip, hold back and pack air."""
    kind = random.choice(("drip", "hold", "headers", "bomb"))
    parts = [_part("video", a.host.url(kind, next(a.numbers))) for _ in range(4)]
    await a.ask("media hosts", [*parts, {"type": "text", "text": "x"}])


async def names(a: Attacker) -> None:
    """Names whose servers stay silent, and names of this machine's inside."""
    number = next(a.numbers)
    parts = [_part("image", f"http://n{number}-{i}.silent.invalid/") for i in range(15)]
    await a.ask("names", [*parts, _part("image", "http://localhost/"), {"type": "text", "text": "x"}])


async def uploads(a: Attacker) -> None:
    """Bodies of which a byte a second comes; some after forty megabytes."""
    where = urlsplit(a.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {a.address()}\r\n"
    writer.write(f"{head}content-type: application/json\r\ncontent-length: {96 * MIB - 1}\r\n\r\n".encode())
    writer.write(b'{"a": "data:image/png;base64,' + b"A" * random.choice((0, 40 * MIB)))
    await _until_answered(a, "uploads", reader, writer, b"A", 1.0)


async def heads(a: Attacker) -> None:
    """Header lines without an end: a byte a second, or as fast as they are taken."""
    where = urlsplit(a.url)
    piece, pause_s = random.choice(((b"a", 1.0), (b"a" * MIB, 0.01)))
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-a: ")
    await _until_answered(a, "heads", reader, writer, piece, pause_s)


async def _until_answered(
    a: Attacker, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece: bytes, pause_s: float
) -> None:
    """Send `piece` after `piece`, with pauses, until somebody says something, or hangs up."""
    try:
        async with asyncio.timeout(_GIVE_UP_S):
            while not reader.at_eof():
                writer.write(piece)
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    if line := await asyncio.wait_for(reader.readline(), pause_s):
                        a.answers[f"{kind}: {line.split()[1].decode()}"] += 1
                        return
        a.answers[f"{kind}: cut"] += 1
    except TimeoutError:
        a.answers[f"{kind}: gave up"] += 1
    except (OSError, IndexError):
        a.answers[f"{kind}: cut"] += 1
    finally:
        writer.close()


async def hang_ups(a: Attacker) -> None:
    """Clients that leave: in the middle of a body, and of a stream."""
    where = urlsplit(a.url)
    body = json.dumps({"model": "demo", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
    for declared in (len(body), len(body) + 1000):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(where.hostname, where.port)
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {a.address()}\r\n"
            writer.write(f"{head}content-length: {declared}\r\n\r\n".encode() + body)
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.close()
    a.answers["hang-ups: gone"] += 2


async def long_texts(a: Attacker) -> None:
    """As much text as a body may hold, to be found too long."""
    await a.ask("long texts", random.choice(("word ", "\n=", "é")) * (1_900_000 // 6))


async def answers(a: Attacker) -> None:
    """Small requests whose answers cost much: half characters, log-probabilities, odd settings."""
    length = {"max_tokens": 600, "ignore_eos": True, "n": 4}
    await a.ask("answers", **length, logit_bias={str(a.half_character): 100})
    await a.ask("answers", **length, logprobs=True, top_logprobs=20)
    await a.ask("answers", temperature=1e-38, seed=1, headers={"x-request-id": "\xe9"})
    await a.ask("answers", response_format=_schema({"const": "e\u0301"}), min_tokens=4)


async def pictures(a: Attacker) -> None:
    """Pictures at the limit of pixels that weigh nothing."""
    await a.ask("pictures", [_part("image", _FLAT), {"type": "text", "text": "x"}])


async def bombs(a: Attacker) -> None:
    """Small files whose headers claim much, of every kind."""
    kind, url = random.choice(_bombs())
    await a.ask("bombs", [_part(kind, url), {"type": "text", "text": "x"}])


@functools.cache
def _bombs() -> list[tuple[str, str]]:
    """(kind of part, `data:` URL) of each."""
    kinds = {"pictures": "image", "videos": "video", "sounds": "audio"}
    return [(kinds[group], _data_url(data)) for group in kinds for data in bombs_of(group).values()]


def _data_url(data: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


def _flat() -> str:
    file = io.BytesIO()
    Image.new("L", (8000, 7999)).save(file, "PNG")
    return _data_url(file.getvalue())


_FLAT = _flat()
KINDS: dict[str, Callable[[Attacker], Awaitable[None]]] = {
    kind.__name__: kind
    for kind in (
        ids, grammars, nesting, media_hosts, names, uploads, heads, hang_ups, long_texts, answers, pictures, bombs,
    )
}  # fmt: skip


def run_attacks(url: str, kinds: tuple[str, ...], seconds: float) -> dict[str, int]:
    """One attacker of each kind for so long, in a process of its own: how often each answer came.

    A process that does not end by itself is ended, and has nothing to tell then.
    """
    try:
        told, _ = in_subprocess(_run, url, kinds, seconds, most_s=_MAKING_S + seconds + _ENDING_S)
    except BrokenProcessPool:
        return {"attackers: ended by force": 1}
    return told


def _run(url: str, kinds: tuple[str, ...], seconds: float) -> dict[str, int]:
    if "bombs" in kinds:
        _bombs()  # made before the clock runs
    return asyncio.run(_attack(url, kinds, seconds))


async def _attack(url: str, kinds: tuple[str, ...], seconds: float) -> dict[str, int]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        with SlowHost() as host:
            attacker = Attacker(session, url, host, _half_character())

            async def keep_at(kind: Callable[[Attacker], Awaitable[None]]) -> None:
                while True:
                    with contextlib.suppress(OSError):
                        await kind(attacker)
                    await asyncio.sleep(PAUSE_S)

            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await asyncio.gather(*(keep_at(KINDS[name]) for name in kinds))
    return dict(attacker.answers)


def _half_character() -> int:
    """A token of the demo model that is no whole character."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(AppConfig()))
    return next(i for i in reversed(range(len(tokenizer))) if tokenizer.decode([i]) == "\N{REPLACEMENT CHARACTER}")
