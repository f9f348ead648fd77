"""The kinds of attacks, each one small request (or connection) after the other, from few addresses. What an attack gets
in answer does not matter; what it costs everybody else does.

Attackers are processes on the server's own cores here. In the world they have machines of their own, and what they
compute is not the server's: so they compute as little as can be (see `bodies`), only where nobody else wants the core
(niceness 19), and what they take all the same is told.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import aiohttp
from transformers import AutoTokenizer

from benchmarks.hostile.bodies import NUMBER, made
from benchmarks.hostile.slow_host import SlowHost
from benchmarks.kit.harness import in_subprocess
from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model
from deployments.core.priority import LOWEST

MIB = 2**20
ADDRESSES = 4
"""From which attackers come; users have others."""
PAUSE_S = 0.5
"""Between two attempts of one attacker."""
_GIVE_UP_S = 20.0
_MAKING_S, _ENDING_S = 120.0, 30.0
"""The longest that attackers may take before and after their time."""

_MEGABYTE, _FORTY = b"a" * MIB, b"A" * (40 * MIB)
_STREAM = json.dumps({"model": "demo", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()


@dataclass(frozen=True, slots=True)
class Attacked:
    """What attackers have to tell."""

    answers: dict[str, int]
    """How often each one came, by `kind: answer`."""
    cpu_s: float | None
    """What all of them took from the first attack to the last; None of those that were ended by force."""


@dataclass
class Attacker:
    """What all kinds use."""

    session: aiohttp.ClientSession
    url: str
    bodies: dict[str, list[bytes]]
    """By kind."""
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    answers: "Counter[str]" = field(default_factory=Counter)

    async def send(self, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        sent = {"content-type": "application/json", "x-forwarded-for": self.address(), **(headers or {})}
        url, timeout = f"{self.url}/v1/chat/completions", aiohttp.ClientTimeout(total=_GIVE_UP_S)
        body = body.replace(b"%d" % NUMBER, b"%d" % (NUMBER + 2 * next(self.numbers)))
        kind = kind.replace("_", " ")
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


async def _each(kind: str, a: Attacker) -> None:
    """All bodies of a kind, one after the other."""
    for body in a.bodies[kind]:
        await a.send(kind, body, {"x-request-id": "\xe9"})


async def _any(kind: str, a: Attacker) -> None:
    """One body of a kind."""
    await a.send(kind, random.choice(a.bodies[kind]))


async def uploads(a: Attacker) -> None:
    """Bodies of which a byte a second comes; some after forty megabytes."""
    where = urlsplit(a.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {a.address()}\r\n"
    writer.write(f"{head}content-type: application/json\r\ncontent-length: {96 * MIB - 1}\r\n\r\n".encode())
    writer.writelines((b'{"a": "data:image/png;base64,', random.choice((b"", _FORTY))))
    await _until_answered(a, "uploads", reader, writer, b"A", 1.0)


async def heads(a: Attacker) -> None:
    """Header lines without an end: a byte a second, or as fast as they are taken."""
    where = urlsplit(a.url)
    piece, pause_s = random.choice(((b"a", 1.0), (_MEGABYTE, 0.01)))
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
    for declared in (len(_STREAM), len(_STREAM) + 1000):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(where.hostname, where.port)
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {a.address()}\r\n"
            writer.write(f"{head}content-length: {declared}\r\n\r\n".encode() + _STREAM)
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.close()
    a.answers["hang-ups: gone"] += 2


KINDS: dict[str, Callable[[Attacker], Awaitable[None]]] = {
    **{kind: partial(_each, kind) for kind in ("ids", "nesting", "names", "answers", "pictures")},
    **{kind: partial(_any, kind) for kind in ("grammars", "media_hosts", "long_texts", "bombs")},
    **{kind.__name__: kind for kind in (uploads, heads, hang_ups)},
}


def run_attacks(url: str, kinds: tuple[str, ...], seconds: float, niceness: int = LOWEST) -> Attacked:
    """One attacker of each kind for so long, in a process of its own, which has `niceness` once its bodies are made.

    A process that does not end by itself is ended, and has nothing to tell then.
    """
    try:
        told, _ = in_subprocess(_run, url, kinds, seconds, niceness, most_s=_MAKING_S + seconds + _ENDING_S)
    except BrokenProcessPool:
        return Attacked({"attackers: ended by force": 1}, None)
    return told


def _run(url: str, kinds: tuple[str, ...], seconds: float, niceness: int) -> Attacked:
    with SlowHost() as host:
        bodies = made(kinds, host, _half_character)
        for thread in threading.enumerate():  # of which each has a niceness of its own
            native_id = thread.native_id or 0
            os.setpriority(os.PRIO_PROCESS, native_id, max(niceness, os.getpriority(os.PRIO_PROCESS, native_id)))
        began_s = time.process_time()
        answers = asyncio.run(_attack(url, kinds, bodies, seconds))
        return Attacked(answers, time.process_time() - began_s)


async def _attack(url: str, kinds: tuple[str, ...], bodies: dict[str, list[bytes]], seconds: float) -> dict[str, int]:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)  # servers wait longer: none of them hangs up first
    async with aiohttp.ClientSession(connector=connector) as session:
        attacker = Attacker(session, url, bodies)

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
