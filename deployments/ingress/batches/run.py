"""One batch, from where it stands to its end: every line is asked once, and its answer or its error written down.

What ends it early (a cancellation, its time, the end of this process) is looked at each second. Then no further line is
asked; those under way are waited for.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from starlette.types import ASGIApp

from deployments.config import IngressConfig
from deployments.errors import Overloaded, StageStarting
from deployments.ingress.batches.ask import Reply, ask
from deployments.ingress.batches.concurrency import BatchConcurrency
from deployments.ingress.batches.files import FileStore
from deployments.ingress.batches.journal import Journal, entry, request_id
from deployments.ingress.batches.lines import Line, LineRequest, WrongLine, check_input, lines, read_line
from deployments.ingress.batches.state import Claim
from deployments.ingress.http.readiness import ASKABLE, Readiness
from deployments.observability.metrics import MetricSink

LOOK_S = 1.0
TRIES = 4
"""Of a line that ended in a defect, a timeout or the death of a replica; refusals for want of room don't count."""
FIRST_PAUSE_S = 1.0
"""Before the second try; twice as long before each further one."""

logger = logging.getLogger("sluice.batches")

Stop = Literal["cancelled", "expired", "leaving"]
"""Why no further line is asked; `leaving`: this replica ends, another one carries on."""


class _Left(Exception):
    """A line that has no answer since its batch was stopped."""


@dataclass(frozen=True, slots=True)
class Means:
    """What all batches of a replica share."""

    app: ASGIApp
    files: FileStore
    config: IngressConfig
    concurrency: BatchConcurrency
    readiness: Readiness
    metrics: MetricSink
    clock: Callable[[], float] = time.time
    look_s: float = LOOK_S
    first_pause_s: float = FIRST_PAUSE_S


class BatchRun:
    """Holds the claim of a batch for as long as it runs."""

    def __init__(self, claim: Claim, means: Means) -> None:
        self._claim, self._means = claim, means
        batch = claim.batch
        self._asked, self._state = batch.asked, batch.state
        self._input: Path = means.files.path(self._asked.input_file_id)
        self._stop: Stop | None = None

    async def run(self) -> None:
        """Raises `OSError` when the folder fails: nothing is lost, it can be run again."""
        if self._state.status == "validating" and not await self._validate():
            return
        if self._state.status == "in_progress":
            output, errors = await asyncio.to_thread(self._open)
            try:
                await self._work(output, errors)
            finally:
                await asyncio.to_thread(_close, output, errors)
            await asyncio.to_thread(self._save, output, errors)
            if self._stop == "leaving":
                return
            await self._move("finalizing", ending=self._stop or "completed")
        await asyncio.to_thread(self._deliver)
        await self._move(self._state.ending or "completed")
        logger.info("batch %s %s", self._asked.id, self._state.status)

    async def _validate(self) -> bool:
        limits = self._means.config
        found = await asyncio.to_thread(
            check_input, self._input, self._asked.endpoint, limits.max_body_bytes, limits.max_batch_lines
        )
        await self._move("failed" if found.errors else "in_progress", total=found.total, errors=found.errors)
        return not found.errors

    async def _work(self, output: Journal, errors: Journal) -> None:
        done = output.numbers | errors.numbers
        places = self._means.concurrency
        self._look()
        watching = asyncio.create_task(self._watch(output, errors))
        try:
            async with asyncio.TaskGroup() as group:
                todo = lines(self._input, self._means.config.max_body_bytes)
                while self._stop is None:
                    line = await asyncio.to_thread(_next_of, todo, done)
                    if line is None:
                        break
                    await places.enter()
                    asking = group.create_task(self._one(line, output, errors))
                    asking.add_done_callback(lambda _: places.leave())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            watching.cancel()
        if self._stop == "expired":
            await self._expire(output, errors)

    async def _one(self, line: Line, output: Journal, errors: Journal) -> None:
        batch_id, number = self._asked.id, line.number
        if self._stop is not None:
            return
        try:
            request = await asyncio.to_thread(read_line, line, self._asked.endpoint)
            reply = await self._answer(request, number)
        except WrongLine as wrong:
            said = {"code": wrong.code, "message": wrong.message}
            await self._note(errors, "failed", number, entry(batch_id, number, wrong.custom_id, error=said))
            return
        except _Left:
            return
        fine = reply.status == 200
        response = {
            "status_code": reply.status,
            "request_id": request_id(batch_id, number),
            "body": orjson.Fragment(reply.body),
        }
        written = entry(batch_id, number, request.custom_id, response=response)
        await self._note(output if fine else errors, "completed" if fine else "failed", number, written)

    async def _answer(self, request: LineRequest, number: int) -> Reply:
        """Raises `_Left`."""
        means, tries, pause_s = self._means, 0, self._means.first_pause_s
        while True:
            await self._until_ready()
            owner, name = self._asked.owner, request_id(self._asked.id, number)
            reply = await ask(means.app, self._asked.endpoint, request.body, owner, name)
            means.concurrency.observe(reply.waited_s, reply.worked_s, reply.admission_s)
            if reply.status == Overloaded.status:
                await self._pause(reply.retry_after_s)
                continue
            if reply.error == StageStarting.code:  # of one model of several, or of one that was idle until now
                await self._pause(means.look_s)
                continue
            tries += 1
            if reply.status < 500 or tries == TRIES:
                return reply
            await self._pause(pause_s)
            pause_s *= 2

    async def _until_ready(self) -> None:
        while (await self._means.readiness.document())["status"] not in ASKABLE:
            await self._pause(self._means.look_s)

    async def _pause(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while (left_s := ends_at - time.monotonic()) > 0:
            if self._stop is not None:
                raise _Left
            await asyncio.sleep(min(left_s, self._means.look_s))
        if self._stop is not None:
            raise _Left

    async def _note(self, journal: Journal, outcome: str, number: int, line: bytes) -> None:
        await journal.append(number, line)
        self._means.metrics.count("sluice_batch_lines", outcome=outcome)

    async def _expire(self, output: Journal, errors: Journal) -> None:
        """Each line without an answer says why."""
        done = output.numbers | errors.numbers
        said = {"code": "batch_expired", "message": "the batch's time was over before this request's turn came"}
        todo = lines(self._input, self._means.config.max_body_bytes)
        while (line := await asyncio.to_thread(_next_of, todo, done)) is not None:
            try:
                custom_id = read_line(line, self._asked.endpoint).custom_id
            except WrongLine as wrong:
                custom_id = wrong.custom_id or ""
            written = entry(self._asked.id, line.number, custom_id or None, error=said)
            await self._note(errors, "expired", line.number, written)

    async def _watch(self, output: Journal, errors: Journal) -> None:
        while True:
            await asyncio.sleep(self._means.look_s)
            await asyncio.to_thread(self._look)
            await asyncio.to_thread(self._save, output, errors)

    def _look(self) -> None:
        if self._means.readiness.draining:
            self._stop = "leaving"
        elif self._claim.cancelled:
            self._stop = "cancelled"
        elif self._means.clock() >= self._asked.expires_at:
            self._stop = "expired"

    def _open(self) -> tuple[Journal, Journal]:
        return Journal(self._claim.output), Journal(self._claim.errors)

    def _save(self, output: Journal, errors: Journal) -> None:
        """How far it is, for whoever asks any replica."""
        completed, failed = len(output.numbers), len(errors.numbers)
        if (completed, failed) != (self._state.completed, self._state.failed):
            self._state = self._state.counted(completed, failed)
            self._claim.save(self._state)

    async def _move(self, status: Any, **fields: Any) -> None:
        self._state = self._state.moved(status, **fields)
        await asyncio.to_thread(self._claim.save, self._state)

    def _deliver(self) -> None:
        """What was written becomes files of the owner; what is empty goes."""
        asked, state = self._asked, self._state
        files = (
            (state.completed, asked.output_file_id, self._claim.output, "output"),
            (state.failed, asked.error_file_id, self._claim.errors, "error"),
        )
        for count, file_id, path, kind in files:
            if count:
                name, age_s = f"{asked.id}_{kind}.jsonl", asked.output_expires_after_s
                self._means.files.add(file_id, path, asked.owner, name, "batch_output", age_s)
            path.unlink(missing_ok=True)


def _close(*journals: Journal) -> None:
    for journal in journals:
        journal.sync()
        journal.close()


def _next_of(todo: Iterator[Line], done: set[int]) -> Line | None:
    """The next line that is not done."""
    return next((line for line in todo if line.number not in done), None)
