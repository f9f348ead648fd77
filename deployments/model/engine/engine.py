"""The engine: one thread that owns model and cache. Takes token ids and tensors, tells listeners token ids.

A step: let go of what nobody waits for, admit, encode a part of the media or choose chunks of the prompts, compute
these and one more token of every answer in one pass, choose the tokens. It knows no tokenizer, no HTTP and no Ray.
"""

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from deployments.autoscaling import StageLoad
from deployments.errors import SluiceError, StageTimeout, WorkCancelled
from deployments.model.engine.admission import check_queue, check_room
from deployments.model.engine.failures import engine_error
from deployments.model.engine.flight import Flight
from deployments.model.engine.load import EngineLoad
from deployments.model.engine.metrics import EngineMetrics, Snapshot
from deployments.model.engine.passes import Passes
from deployments.model.engine.prefill import Prefill
from deployments.model.engine.rows import chunk_of, row_of
from deployments.model.engine.scheduler import Chunks, Owners, ScheduledRequest, Scheduler
from deployments.model.engine.step_budget import Allowance, StepBudget
from deployments.model.engine.step_thread import StepThread
from deployments.model.engine.token_step import TokenStep
from deployments.model.forward.runner import ModelRunner
from deployments.model.multimodal.arrivals import Arrivals
from deployments.model.multimodal.request_media import Media, MediaMemory
from deployments.model.sampling.sampler import Sampler
from deployments.model.sequence import EngineRequest, Listener, Phase, Sequence
from deployments.observability.metrics import MetricSink

logger = logging.getLogger(__name__)

_STALLED_S = 0.05
"""Between two looks at deadlines while media are on their way."""


@dataclass(frozen=True, slots=True)
class StepWork:
    """What a step did, for who learns from how long it took."""

    pressure: float | None
    prompts: int
    allowance: Allowance | None
    amount: int
    prefilled: bool


class Engine:
    """`submit` and `abort` may be called from any thread; listeners are called from the engine's own."""

    def __init__(
        self,
        runner: ModelRunner,
        memory: MediaMemory,
        sink: MetricSink,
        *,
        budget: StepBudget,
        max_running: int,
        max_waiting: int,
        target_backlog_s: float,
        target_kv_usage: float,
        sampler: Sampler | None = None,
    ) -> None:
        self.family = runner.family
        self._runner = runner
        self._cache = runner.cache
        self._memory = memory
        self._scheduler = Scheduler(runner.cache, memory, max_running)
        self._budget = budget
        keeps_prefixes = runner.cache.prefixes is not None
        self._prefill = Prefill(
            runner.family, runner.encoder, self._scheduler, budget, self._fail, keeps_prefixes=keeps_prefixes
        )
        self._passes = Passes(
            runner, self._scheduler, run=self._pass, computed=self._computed, settle=self._settle, failed=self._fail
        )
        self._token_step = TokenStep(sampler or Sampler(runner.device), self._scheduler, self._fail)
        self._flight: Flight | None = None
        """What the device chooses while the host goes on; None where the host knows all."""
        self._work: StepWork | None = None
        """Of the step that `_flight` belongs to."""
        self._load = EngineLoad(self._scheduler, runner.cache, target_backlog_s, target_kv_usage)
        self._metrics = EngineMetrics(sink, self._scheduler, memory, runner.cache, self._load)
        self._max_waiting = max_waiting
        self._inbox: deque[ScheduledRequest] = deque()
        self._thread = StepThread(
            "engine",
            "model",
            step=self.step,
            is_busy=lambda: self.busy,
            idle=lambda: self._metrics.report(now=True),
            failed=self._fail_all,
            on_cpu=runner.device.type == "cpu",  # beside a GPU nothing may keep this thread waiting
            pause_s=self._pause_s,
        )

    @property
    def description(self) -> str:
        """The device and what its cache holds: `on cpu, 131072 tokens of KV cache, 8192 a request`."""
        held = self._cache.pool.num_pages * self._cache.page_size
        return f"on {self._runner.place}, {held} tokens of KV cache, {self._cache.max_length} a request"

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer together that one sequence may have."""
        return self._cache.max_length

    @property
    def load(self) -> StageLoad | None:
        """How much of a replica the requests take, a second ago at most; None before the first one."""
        return self._load.load

    @property
    def awaiting(self) -> int:
        """Requests without a first token; about, since the engine goes on meanwhile."""
        return self._scheduler.prompts + len(self._scheduler.waiting) + len(self._inbox)

    @property
    def has_spare(self) -> bool:
        """Whether a request may take its place before its media have come: nobody waits for one; about, likewise."""
        running, promised = 2 * self._scheduler.num_sequences, 2 * self._memory.reserved_bytes
        crowded = running > self._scheduler.max_running or promised > self._memory.budget_bytes
        return not (crowded or self._inbox or self._scheduler.waiting)

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._inbox or self._scheduler.waiting or self._scheduler.running)

    def snapshot(self) -> Snapshot:
        """What the engine has in hand."""
        return self._metrics.snapshot(len(self._inbox))

    def start(self) -> None:
        self._thread.start()

    def submit(
        self,
        request: EngineRequest,
        tensors: dict[str, NDArray[Any]],
        listener: Listener,
        arrivals: Arrivals | None = None,
    ) -> Sequence:
        """Queue a request with the processor's tensors by name; read-only views are fine. `arrivals`: of which one is
        the array; for each group that comes, call `wake`.

        The engine owns `tensors` and empties it as soon as they are encoded, so that whoever else holds the dict holds
        no media. Raises `BadRequest`, `ContextTooLong`, `TooLarge`, `Overloaded`, `StageUnavailable`; the message says
        the limit.
        """
        room = check_room(request, self._cache, self._scheduler.max_running)
        sequence = Sequence(request, listener, room)
        need = self.family.device_bytes(sequence.prompt_T, tensors) if tensors else 0
        self._memory.check(need)
        with self._thread.submitting():
            check_queue(len(self._inbox) + len(self._scheduler.waiting), self._max_waiting)
            self._inbox.append(ScheduledRequest(sequence, Media(tensors, self._memory, arrivals), need))
        return sequence

    def wake(self) -> None:
        """More of a request's media have come."""
        self._thread.wake()

    def abort(self, sequence: Sequence) -> None:
        """Stop a request: what it holds is free before the next step; its listener hears `WorkCancelled`."""
        sequence.abort()
        self.wake()

    def check_health(self) -> None:
        """Raise `ReplicaLost` when the thread is dead, `InternalError` when one step goes on and on."""
        self._thread.check_health()

    def close(self, grace_s: float) -> None:
        """Take no more requests, let those under way finish for `grace_s` seconds, then stop the thread."""

        def give_up() -> None:
            for request in [*self._inbox, *self._scheduler.requests]:
                request.sequence.abort()

        self._thread.close(grace_s, give_up)
        self._runner.encoder.close()

    @torch.inference_mode()
    def step(self) -> None:
        """One round. What goes wrong with one request ends that request; only a lost device ends the engine."""
        began = time.monotonic()
        self._take_in()
        self._reap()
        self._scheduler.admit()
        self._scheduler.reserve_decoding()
        pressure, prompts = self._scheduler.pressure, self._scheduler.moving_prompts
        allowance, amount, chunks = self._prefill.advance()
        owners = self._scheduler.decoding
        before = self._flight
        if owners or chunks:
            self._passes.compute(owners, chunks)
        if self._flight is before or (self._flight is not None and not self._flight.runs_ahead):
            self._settle()
        self._record(StepWork(pressure, prompts, allowance, amount, bool(chunks)), time.monotonic() - began)
        self._metrics.report()

    def _pause_s(self) -> float | None:
        waits = self._flight is None and self._scheduler.is_stalled and not self._inbox
        return _STALLED_S if waits else None

    def _take_in(self) -> None:
        with self._thread.inbox():
            arrived = list(self._inbox)
            self._inbox.clear()
        for request in arrived:
            self._load.record_arrival(request.sequence)
            self._scheduler.waiting.append(request)
            if request.sequence.request.clips_absent:
                self._prefill.check_absent(request)
            request.media.count()

    def _reap(self) -> None:
        for request in self._scheduler.requests:
            deadline = request.sequence.request.deadline
            if request.sequence.aborted or deadline.cancelled:
                self._fail(request, WorkCancelled("the request was stopped"))
            elif deadline.remaining_s() <= 0:
                self._fail(request, StageTimeout("model"))

    def _record(self, work: StepWork, seconds: float) -> None:
        """What a step took. One that is not waited for takes the time of the one after it; of two that ended in one
        step nobody knows which took how much of it."""
        before, self._work = self._work, None if self._flight is None else work
        if self._flight is not None and before is None:
            return
        if self._flight is None and before is not None:
            return
        done = before or work
        if done.pressure is not None:
            self._budget.update(seconds, done.allowance, done.amount)
        self._load.record_step(seconds, done.prompts, done.amount if done.prefilled else 0)

    def _settle(self) -> None:
        """Wait for the tokens of the last pass."""
        flight, self._flight = self._flight, None
        if flight is not None:
            self._token_step.collect(flight)

    def _pass(self, owners: Owners, chunks: Chunks) -> torch.Tensor:
        rows = [row_of(request.sequence, choice, self._flight) for request, choice in owners]
        return self._runner.run(rows, [(chunk_of(request, end), request.media) for request, end in chunks])

    def _computed(self, owners: Owners, chunks: Chunks, logits: torch.Tensor) -> None:
        """Choose tokens after a pass: next ones of answers, first ones of prompts that are complete."""
        chosen, places = list(owners), list(range(len(owners)))
        if owners:
            self._metrics.batch(len(owners))
        for number, (request, end) in enumerate(chunks, start=len(owners)):
            request.sequence.num_prefilled = end
            request.media.prefilled(end)
            request.media.count()
            if end == request.sequence.num_prompt:
                self._scheduler.prefilled(request)
                self._metrics.prefilled(request.sequence)
                chosen += [(request, choice) for choice in request.sequence.choices]
                places += [number] * len(request.sequence.choices)
        if chosen:
            if places != list(range(len(logits))):
                logits = logits[torch.tensor(places, device=logits.device)]
            self._launched(self._token_step.begin(chosen, logits))

    def _launched(self, flight: Flight) -> None:
        """Now that the device has more to do, wait for what it did before."""
        before, self._flight = self._flight, flight
        if flight.choosing.tokens_R is not None:
            self._runner.latest.put(flight.choosing.tokens_R)
        if before is not None:
            for choice in self._token_step.collect(before):
                flight.drop(choice)

    def _fail(self, request: ScheduledRequest, error: SluiceError) -> None:
        if request.sequence.phase is Phase.DONE:
            return
        self._scheduler.remove(request)
        _tell(request, error)

    def _fail_all(self) -> None:
        error = engine_error()
        with self._thread.inbox():
            requests = [*self._inbox, *self._scheduler.give_up()]
            self._inbox.clear()
        for request in requests:
            request.media.drop()
            _tell(request, error)


def _tell(request: ScheduledRequest, error: SluiceError) -> None:
    try:
        request.sequence.listener.on_error(error)
    except Exception:
        logger.warning("a listener failed while it was told of an error", exc_info=True)
