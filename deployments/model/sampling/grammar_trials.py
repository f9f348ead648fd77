"""Whether a grammar can be compiled within limits: found out in a process that may be killed; see `trial_process`."""

import asyncio
import contextlib
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from deployments.core.deadline import Deadline
from deployments.core.priority import YIELD, YIELD_MORE
from deployments.errors import BadRequest, InternalError, StageTimeout, shown

MIB = 2**20
QUICK_S = 0.1
"""CPU time of a first try. Nearly every grammar needs less; those that need more wait for each other, not for them."""
QUICK_PLACES, SLOW_PLACES = 2, 1
_WALL = 8.0
"""How many times as long as its CPU time a trial may take, beside others."""
_LATE_S = 10.0
_LINE_BYTES = 2**20

Told = dict[str, Any]


class GrammarTrials:
    """Starts its process when first needed, and again when it has died. Made and used on one event loop."""

    def __init__(self, tokenizer_json: str, n_vocab: int, eos_ids: list[int] | None, cpu_s: float, mib: int) -> None:
        """`cpu_s`, `mib`: what one grammar may take."""
        self._first_line = {"tokenizer": tokenizer_json, "n_vocab": n_vocab, "eos": eos_ids}
        self._bytes = mib * MIB
        self._cpu_s = cpu_s
        self._tiers = (
            (asyncio.Semaphore(QUICK_PLACES), min(QUICK_S, cpu_s), YIELD),
            (asyncio.Semaphore(SLOW_PLACES), cpu_s, YIELD_MORE),
        )
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Told]] = {}
        self._began: dict[int, float] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def check(self, grammar: str, deadline: Deadline) -> None:
        """Raise `BadRequest` with the reason unless `grammar`, in llguidance's form, can be compiled within limits.

        Raises `StageTimeout` at the request's deadline. Whoever is cancelled takes the trial along.
        """
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                for places, cpu_s, yields in self._tiers:
                    async with places:
                        told = await self._tried(grammar, cpu_s, yields, deadline)
                    if told["outcome"] != "time":
                        break
        except TimeoutError:
            raise StageTimeout(deadline.stage) from None
        deadline.check()
        if told["outcome"] in ("time", "memory"):
            raise BadRequest(f"takes more {told['outcome']} to compile than this server allows")
        if told["outcome"] == "refused":
            raise BadRequest(f"can not be followed: {shown(told['said'])}")

    @property
    def running(self) -> int:
        """Grammars that are being compiled."""
        return len(self._began)

    def check_health(self) -> None:
        """Raise `InternalError` when a trial goes on although all its limits are over."""
        latest = time.monotonic() - _WALL * self._cpu_s - _LATE_S
        if any(began < latest for began in self._began.values()):
            raise InternalError("a grammar is still being compiled after its time")

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _tried(self, grammar: str, cpu_s: float, yields: int, deadline: Deadline) -> Told:
        process = await self._running_process()
        number = next(self._numbers)
        answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._answers[number], self._began[number] = answer, time.monotonic()
        alarm_s = max(0.01, min(deadline.remaining_s(), _WALL * cpu_s))
        limits = {"bytes": self._bytes, "cpu_s": cpu_s, "alarm_s": alarm_s, "yields": yields}
        try:
            _tell(process, {"id": number, "grammar": grammar, **limits})
            return await answer
        finally:
            del self._answers[number]
            if answer.cancelled():
                _tell(process, {"id": number})

    async def _running_process(self) -> asyncio.subprocess.Process:
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                program = str(Path(__file__).with_name("trial_process.py"))
                pipe = asyncio.subprocess.PIPE
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, program, stdin=pipe, stdout=pipe, limit=_LINE_BYTES
                )
                _tell(self._process, self._first_line)
                self._listening = asyncio.create_task(self._listen(self._process))
            return self._process

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            told: Told = orjson.loads(line)
            self._began.pop(told["id"], None)
            answer = self._answers.get(told["id"])
            if answer is not None and not answer.done():
                answer.set_result(told)
        await process.wait()
        self._began.clear()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(InternalError("the process that tries grammars has died"))


def _tell(process: asyncio.subprocess.Process, order: Told) -> None:
    assert process.stdin is not None
    if not process.stdin.is_closing():
        process.stdin.write(orjson.dumps(order) + b"\n")
