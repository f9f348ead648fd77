"""The engine: one thread that owns model and cache. Takes token ids and tensors, tells listeners token ids.

A step: let go of what nobody waits for, admit, encode a part of the media or prefill a chunk of the prompts, decode
every running sequence by one token, in the chunk's own pass where it can. It knows no tokenizer, no HTTP and no Ray.
"""

import logging
import threading
import time
from collections import deque
from typing import Any

import torch
from numpy.typing import NDArray

from deployments.autoscaling import StageLoad
from deployments.core.priority import yield_to_event_loops
from deployments.errors import (
    ContextTooLong,
    InternalError,
    Overloaded,
    SluiceError,
    StageTimeout,
    StageUnavailable,
    TooLarge,
    WorkCancelled,
)
from deployments.model.engine.load import Demand
from deployments.model.engine.metrics import Gauges
from deployments.model.engine.prefill import Chunks, Prompts
from deployments.model.engine.scheduler import Job, Scheduler
from deployments.model.engine.step_budget import Pace
from deployments.model.engine.token_step import NextTokens, Owners
from deployments.model.forward.decode_step import IDLE, Row
from deployments.model.forward.runner import ModelRunner
from deployments.model.multimodal.request_media import Ledger, Media
from deployments.model.sampling.sampler import Sampler
from deployments.model.sequence import Choice, EngineRequest, Listener, Phase, Sequence
from deployments.observability.metrics import MetricSink

logger = logging.getLogger(__name__)

WEDGED_AFTER_S = 60.0
"""A step that takes longer than this makes the replica unhealthy."""
IDLE_REPORT_S = 1.0
"""Gauges that are not set again and again go missing from the metrics page."""


class Engine:
    """`submit` and `abort` may be called from any thread; listeners are called from the engine's own."""

    def __init__(
        self,
        runner: ModelRunner,
        ledger: Ledger,
        sink: MetricSink,
        *,
        pace: Pace,
        max_waiting: int,
        target_backlog_s: float,
        target_kv_usage: float,
    ) -> None:
        self.family = runner.family
        self._runner = runner
        self._ledger = ledger
        self._scheduler = Scheduler(runner.cache, ledger)
        self._pace = pace
        self._prompts = Prompts(runner, self._scheduler, pace, self._begin_decode, self._fail)
        self._next_tokens = NextTokens(Sampler(runner.device), self._scheduler, self._fail)
        self._demand = Demand(self._scheduler, runner.cache.num_slots, target_backlog_s, target_kv_usage)
        self._gauges = Gauges(sink, self._scheduler, ledger, runner.cache, self._demand)
        self._max_waiting = max_waiting
        self._inbox: deque[Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._step_began: float | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def description(self) -> str:
        """The device and what its cache holds, such as `on cpu, 16 x 8192 tokens`."""
        cache = self._runner.cache
        return f"on {self._runner.device.type}, {cache.num_slots} x {cache.max_length} tokens"

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer together that one sequence may have."""
        return self._runner.cache.max_length

    @property
    def load(self) -> StageLoad | None:
        """How much of a replica the requests take, a second ago at most; None before the first one."""
        return self._demand.load

    @property
    def awaiting(self) -> int:
        """Requests without a first token; about, since the engine goes on meanwhile."""
        return self._scheduler.prompts + len(self._scheduler.waiting) + len(self._inbox)

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._inbox or self._scheduler.waiting or self._scheduler.running)

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: EngineRequest, tensors: dict[str, NDArray[Any]], listener: Listener) -> Sequence:
        """Queue a request with the processor's tensors by name; read-only views are fine.

        The engine owns `tensors` and empties it as soon as they are encoded, so that whoever else holds the dict holds
        no media. Raises `ContextTooLong`, `TooLarge`, `Overloaded`, `StageUnavailable`; the message says the limit.
        """
        sequence = Sequence(request, listener, self._room(request))
        need = self._runner.family.device_bytes(sequence.prompt_T, tensors) if tensors else 0
        if need > self._ledger.budget_bytes:
            raise TooLarge(
                f"the request's media take {need >> 20} MiB on the model's device, "
                f"{self._ledger.budget_bytes >> 20} MiB are allowed"
            )
        with self._wake:
            if self._closing:
                raise StageUnavailable("the model replica is shutting down")
            if len(self._inbox) + len(self._scheduler.waiting) >= self._max_waiting:
                raise Overloaded("too many requests wait for the model", retry_after_s=1.0)
            self._inbox.append(Job(sequence, Media(tensors, self._ledger), need))
            self._wake.notify()
        return sequence

    def abort(self, sequence: Sequence) -> None:
        """Stop a request: what it holds is free before the next step; its listener hears `WorkCancelled`."""
        sequence.abort()
        with self._wake:
            self._wake.notify()

    def check_health(self) -> None:
        """Raise `InternalError` when the thread is dead or one step goes on and on."""
        if self._failure is not None:
            raise InternalError("the engine has failed") from self._failure
        if not self._thread.is_alive() and not self._closing:
            raise InternalError("the engine's thread is dead")
        began = self._step_began
        if began is not None and time.monotonic() - began > WEDGED_AFTER_S:
            raise InternalError("the engine's step does not end")

    def close(self, grace_s: float) -> None:
        """Take no more requests, let those under way finish for `grace_s` seconds, then stop the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(grace_s)
        for job in [*self._inbox, *self._scheduler.jobs]:
            job.sequence.abort()
        self._thread.join()
        self._runner.close()

    @torch.inference_mode()
    def step(self) -> None:
        """One round. Errors of one request end that request; an error of the batch ends the engine."""
        began = time.monotonic()
        self._take_in()
        self._reap()
        self._scheduler.admit()
        pressure, prompts = self._scheduler.pressure, self._scheduler.prompts
        work, chunks = (None, []) if self._pace.rests(pressure) else self._prompts.advance()
        self._compute(chunks)
        took_s = time.monotonic() - began
        if pressure is not None:
            self._pace.stepped(took_s, work)
        self._demand.stepped(took_s, prompts, work.amount if work is not None and chunks else 0)
        self._gauges.report()

    def _run(self) -> None:
        if self._runner.device.type == "cpu":  # beside a GPU nothing may keep this thread waiting
            yield_to_event_loops()
        try:
            while self._wait_for_work():
                self._step_began = time.monotonic()
                self.step()
                self._step_began = None
        except Exception as error:
            self._failure = error
            self._fail_all(InternalError("the engine has failed"))
            raise

    def _wait_for_work(self) -> bool:
        """True as soon as there is something to do, False to stop."""
        with self._wake:
            while not self.busy and not self._closing:
                self._gauges.report(now=True)
                self._wake.wait(IDLE_REPORT_S)
        return self.busy

    def _take_in(self) -> None:
        with self._wake:
            arrived = list(self._inbox)
            self._inbox.clear()
        for job in arrived:
            job.media.count()
            self._demand.took(job.sequence)
            self._scheduler.waiting.append(job)

    def _room(self, request: EngineRequest) -> int:
        """Tokens that each answer may have. Raises `ContextTooLong`, `TooLarge`."""
        params, limit = request.params, self.max_length
        if params.n > self._runner.cache.num_slots:
            raise TooLarge(f"`n` is {params.n}, at most {self._runner.cache.num_slots} answers can run at once")
        num_prompt = len(request.token_ids)
        wanted = params.max_tokens or 1
        if num_prompt + wanted > limit:
            raise ContextTooLong(
                f"the prompt has {num_prompt} tokens and the answer may have {wanted}; "
                f"together at most {limit} are possible"
            )
        return params.max_tokens or limit - num_prompt

    def _reap(self) -> None:
        for job in self._scheduler.jobs:
            deadline = job.sequence.request.deadline
            if job.sequence.aborted or deadline.cancelled:
                self._fail(job, WorkCancelled("the request was stopped"))
            elif deadline.remaining_s() <= 0:
                self._fail(job, StageTimeout("model"))

    def _compute(self, chunks: Chunks) -> None:
        """Prefill the chunks and decode one token of every answer: in one pass where the model allows it."""
        owners, rows = self._rows()
        if chunks and self._runner.joins(rows):
            try:
                logits = self._runner.join([(job.sequence, job.media, end) for job, end in chunks], rows)
            except Exception:
                logger.warning("a joint pass failed; its requests are computed apart", exc_info=True)
            else:
                self._joined(chunks, owners, rows, logits)
                return
        # Each chunk in a pass of its own: what goes wrong there is its request's fault alone.
        self._prompts.prefill(chunks)
        if self._scheduler.decoding:
            self._decode()

    def _joined(self, chunks: Chunks, owners: Owners, rows: list[Row], logits: torch.Tensor) -> None:
        """Choose tokens after a joint pass: first ones of prompts that are complete, next ones of answers."""
        chosen: Owners = []
        places: list[int] = []
        for number, (job, end) in enumerate(chunks):
            job.media.count()
            if end == job.sequence.num_prompt:
                self._prefilled(job)
                chosen += [(job, choice) for choice in job.sequence.choices]
                places += [number] * len(job.sequence.choices)
        active = [number for number, row in enumerate(rows) if row.active]
        chosen += [owners[number] for number in active]
        places += [len(chunks) + number for number in active]
        if active:
            self._gauges.batch(len(active))
        if chosen:
            self._next_tokens.choose(chosen, logits[torch.tensor(places, device=logits.device)])

    def _begin_decode(self, job: Job, logits_1V: torch.Tensor) -> None:
        """The prompt is in the first choice's slot: choose everyone's first token."""
        self._prefilled(job)
        choices = job.sequence.choices
        self._next_tokens.choose([(job, choice) for choice in choices], logits_1V.expand(len(choices), -1))

    def _prefilled(self, job: Job) -> None:
        """The prompt is in the first choice's slot: copy it for the others."""
        first, *others = job.sequence.choices
        for choice in others:
            self._runner.cache.copy_slot(first.slot, choice.slot, job.sequence.num_prompt)
        self._scheduler.prefilled(job)

    def _decode(self) -> None:
        owners, rows = self._rows()
        logits_RV = self._runner.decode(rows)
        active = [i for i, row in enumerate(rows) if row.active]
        if len(active) < len(rows):
            logits_RV = logits_RV[torch.tensor(active, device=logits_RV.device)]
        self._gauges.batch(len(active))
        self._next_tokens.choose([owners[i] for i in active], logits_RV)

    def _rows(self) -> tuple[Owners, list[Row]]:
        """The slots of a decode step up to the last one that decodes, none when none does, and what it knows of each.

        A step may have a few rows more than there are owners.
        """
        owners = self._scheduler.slots
        used = max((i + 1 for i, (job, _) in enumerate(owners) if job.sequence.phase is Phase.DECODE), default=0)
        if not used:
            return [], []
        count = self._runner.num_rows(used)
        owners = owners[:count]
        return owners, [_row(job, choice) for job, choice in owners] + [IDLE] * (count - len(owners))

    def _fail(self, job: Job, error: SluiceError) -> None:
        self._scheduler.remove(job)
        job.sequence.listener.on_error(error)

    def _fail_all(self, error: SluiceError) -> None:
        with self._wake:
            self._closing = True
            jobs = [*self._inbox, *self._scheduler.give_up()]
            self._inbox.clear()
        for job in jobs:
            job.media.drop()
            job.sequence.listener.on_error(error)


def _row(job: Job, choice: Choice) -> Row:
    sequence = job.sequence
    if sequence.phase is Phase.DECODE and choice.token_ids:
        return Row(choice.token_ids[-1], sequence.length(choice), sequence.position_offsets, active=True)
    return Row(0, sequence.num_prefilled, (0, 0, 0), active=False)
