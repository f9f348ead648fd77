"""From admission to the first token: media are encoded part by part, prompts prefilled chunk by chunk. The engine
computes chunks together with its decode step where it can; here each has a pass of its own.

What goes wrong here is one request's own and ends that request alone.
"""

import time
from collections.abc import Callable
from functools import partial

import torch

from deployments.errors import InternalError, SluiceError
from deployments.model.engine.scheduler import Job, Scheduler
from deployments.model.engine.step_budget import Pace, Work
from deployments.model.forward.runner import ModelRunner
from deployments.model.multimodal.items import Item
from deployments.model.multimodal.request_media import EncodedRows
from deployments.model.sequence import Phase

Chunks = list[tuple[Job, int]]
"""Requests, and up to which token their prompts are computed next."""


class Prompts:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        pace: Pace,
        ready: Callable[[Job, torch.Tensor], object],
        failed: Callable[[Job, SluiceError], object],
    ) -> None:
        """`ready` gets a request whose prompt is in the cache, and the logits [1, V] of its first token."""
        self._runner = runner
        self._scheduler = scheduler
        self._pace = pace
        self._ready = ready
        self._failed = failed

    def advance(self) -> tuple[Work | None, Chunks]:
        """Do a step's share of encoding, or say its share of prefilling; both when nobody decodes."""
        first = self._scheduler.next_prompt
        if first is None:
            return None, []
        pressure = self._scheduler.pressure
        if first.sequence.phase is Phase.ENCODE or pressure is None:
            work = self._encode(pressure)
            if work.amount and pressure is not None:
                return work, []
        first = self._scheduler.next_prompt
        if first is None:
            return None, []
        allowance = self._pace.chunk(first.sequence.num_prefilled, pressure)
        chunks = self._scheduler.prefill_plan(allowance.size)
        amount = sum(end - job.sequence.num_prefilled for job, end in chunks)
        return Work(allowance, amount) if amount else None, chunks

    def prefill(self, chunks: Chunks) -> None:
        """Compute chunks, each in a pass of its own."""
        for job, end in chunks:
            self._attempt(job, partial(self._chunk, job, end))

    def _encode(self, pressure: float | None) -> Work:
        """The next items of all who have some, within the allowance; whoever has none left can be prefilled.

        Items whose outputs are kept cost nothing. Nobody who decodes waits until that is known of an item.
        """
        allowance = self._pace.part(pressure)
        cost = partial(self._runner.cost, wait=pressure is None)
        parts: list[tuple[Job, list[Item]]] = []
        amount = 0
        for job in self._scheduler.encoding:
            if not job.sequence.stamps.encoding:
                self._attempt(job, partial(self._start, job))
            items, values = job.media.take(allowance.size - amount, cost, at_least_one=not amount)
            amount += values
            parts.append((job, items))
            if job.media.items:
                break
        self._run([(job, items) for job, items in parts if items])
        for job, _ in parts:
            if job.sequence.phase is Phase.ENCODE and not job.media.items:
                self._attempt(job, partial(self._finish, job))
            else:
                self._runner.upload(job.media.ahead(allowance.size, partial(self._runner.cost, wait=False)))
        return Work(allowance, amount)

    def _start(self, job: Job) -> None:
        job.sequence.stamps.encoding = time.monotonic()
        self._runner.start(job.sequence, job.media)

    def _run(self, parts: list[tuple[Job, list[Item]]]) -> None:
        """Encode everybody's items in one go; one by one when that fails, so that the guilty one fails alone."""
        together = [item for _, items in parts for item in items]
        try:
            encoded = self._runner.encode(together) if together else []
        except Exception:
            for job, items in parts:
                self._attempt(job, partial(self._encode_alone, job, items))
        else:
            for job, items in parts:
                mine, encoded = encoded[: len(items)], encoded[len(items) :]
                self._keep(job, items, mine)

    def _encode_alone(self, job: Job, items: list[Item]) -> None:
        self._keep(job, items, self._runner.encode(items))

    @staticmethod
    def _keep(job: Job, items: list[Item], encoded: list[EncodedRows]) -> None:
        for item, rows in zip(items, encoded, strict=True):
            job.media.parts.setdefault(item.kind, []).append(rows)
        job.media.count()

    def _finish(self, job: Job) -> None:
        self._runner.hand_over(job.media)
        job.media.count()
        stamps = job.sequence.stamps
        stamps.encoded = time.monotonic() if job.media.encoded else stamps.encoding
        job.sequence.phase = Phase.PREFILL

    def _chunk(self, job: Job, end: int) -> None:
        logits_1V = self._runner.prefill(job.sequence, job.media, end)
        job.media.count()
        if logits_1V is not None:
            self._ready(job, logits_1V)

    def _attempt(self, job: Job, work: Callable[[], object]) -> None:
        """Do one request's own work; what goes wrong there ends that request."""
        try:
            work()
        except SluiceError as error:
            self._failed(job, error)
        except Exception as error:
            self._failed(job, _request_error(error))


def _request_error(error: Exception) -> SluiceError:
    """What a client is told when its own prompt or media made the model fail."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return InternalError("the model's device has no memory left for this request")
    failure = InternalError(f"the model failed on this request ({type(error).__name__})")
    failure.__cause__ = error
    return failure
