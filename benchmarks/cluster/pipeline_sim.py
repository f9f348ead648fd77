"""A discrete-event simulation of Sluice: CPUs that fetch, decode and preprocess, and one model replica that batches.

Knows costs and queues, no code of the stages. Users ask again as soon as they are answered, so the slower side is busy
all the time and its rate is the pipeline's.
"""

import heapq
import itertools
import random
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MEDIA_STAGES = ("fetch", "decode", "preprocess")


@dataclass(frozen=True, slots=True)
class KindCosts:
    """Of one request of a kind, in seconds."""

    media_cpu_s: Mapping[str, float]
    """CPU time by `MEDIA_STAGES`."""
    prefill_s: float
    """Of the model replica, alone: encode and prefill."""
    front_cpu_s: float = 0.0
    """CPU time of everything else: proxy, ingress, hand-offs."""


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """Of the model replica's decode steps."""

    step_s: float
    step_per_sequence_s: float
    max_running: int
    tokens: int
    """Of each answer."""

    def step(self, sequences: int) -> float:
        return self.step_s + self.step_per_sequence_s * sequences


@dataclass(frozen=True, slots=True)
class Outcome:
    rate: float
    """Answers a second."""
    model_busy: float
    """Share of the time in which the model replica worked."""
    cpus_busy: float
    """The same of the CPUs."""
    latency_s: float
    """Median, from question to last token."""


@dataclass(slots=True)
class _Request:
    kind: str
    asked_s: float
    left: int = 0
    """Tokens still to come."""


@dataclass(slots=True)
class _Cpus:
    """Identical CPUs and one queue."""

    free: int
    queue: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)
    busy_s: float = 0.0


class Pipeline:
    """One run. With `shared_cpus`, front and model take their time from the same CPUs, as on one machine."""

    def __init__(
        self,
        costs: Mapping[str, KindCosts],
        model: ModelCosts,
        mix: Mapping[str, float],
        *,
        cpus: int,
        users: int,
        seed: int = 0,
        shared_cpus: bool = False,
    ) -> None:
        self._costs, self._model, self._mix = costs, model, mix
        self._shared = shared_cpus
        self._random = random.Random(seed)
        self._cpus = _Cpus(cpus)
        self._cpu_count = cpus
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._stepping = False
        self._model_busy_s = 0.0
        self._ended: list[float] = []
        """Latency of each answer."""
        for _ in range(users):
            self._ask()

    def run(self, answers: int, warmup: int) -> Outcome:
        """What happened during `answers` answers, after the first `warmup`."""
        marks: list[tuple[float, float, float]] = []
        for count in (warmup, warmup + answers):
            while len(self._ended) < count:
                self._now_s, _, action = heapq.heappop(self._events)
                action()
            marks.append((self._now_s, self._model_busy_s, self._cpus.busy_s))
        seconds, model_s, cpus_s = (after - before for before, after in zip(*marks, strict=True))
        return Outcome(
            rate=answers / seconds,
            model_busy=model_s / seconds,
            cpus_busy=cpus_s / seconds / self._cpu_count,
            latency_s=statistics.median(self._ended[warmup : warmup + answers]),
        )

    # ── a request's way ──────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self) -> None:
        kind = self._random.choices(list(self._mix), list(self._mix.values()))[0]
        request = _Request(kind, self._now_s, self._model.tokens)
        costs = self._costs[kind]
        jobs = [costs.media_cpu_s[stage] for stage in MEDIA_STAGES if costs.media_cpu_s[stage] > 0]
        if self._shared:
            jobs.append(costs.front_cpu_s)
        self._through(request, jobs)

    def _through(self, request: _Request, jobs: list[float]) -> None:
        if not jobs:
            self._waiting.append(request)
            self._wake_model()
            return
        self._on_cpu(jobs[0], lambda: self._through(request, jobs[1:]))

    def _on_cpu(self, seconds: float, then: Callable[[], None]) -> None:
        self._cpus.queue.append((seconds, then))
        self._dispatch()

    def _dispatch(self) -> None:
        while self._cpus.free and self._cpus.queue:
            seconds, then = self._cpus.queue.popleft()
            self._cpus.free -= 1
            self._cpus.busy_s += seconds
            self._after(seconds, lambda then=then: self._cpu_done(then))  # type: ignore[misc]

    def _cpu_done(self, then: Callable[[], None]) -> None:
        self._cpus.free += 1
        then()
        self._dispatch()

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + seconds, next(self._order), action))

    # ── the model replica ────────────────────────────────────────────────────────────────────────────────────────────

    def _wake_model(self) -> None:
        if not self._stepping and (self._waiting or self._running):
            self._stepping = True
            self._step()

    def _step(self) -> None:
        """A prompt that waits, or several small ones, as far as there is room; and a token for everyone."""
        joining: list[_Request] = []
        seconds = 0.0
        while self._waiting and len(self._running) + len(joining) < self._model.max_running:
            if joining and seconds + self._costs[self._waiting[0].kind].prefill_s > self._model.step_s:
                break
            joining.append(self._waiting.popleft())
            seconds += self._costs[joining[-1].kind].prefill_s
        if self._running:
            seconds += self._model.step(len(self._running))
        self._model_busy_s += seconds

        def done() -> None:
            self._running += joining
            for request in [*self._running]:
                self._give_token(request)
            self._stepping = False
            self._wake_model()

        if self._shared:
            self._on_cpu(seconds, done)
        else:
            self._after(seconds, done)

    def _give_token(self, request: _Request) -> None:
        request.left -= 1
        if request.left == 0:
            self._running.remove(request)
            self._ended.append(self._now_s - request.asked_s)
            self._ask()


def cpus_needed(
    costs: Mapping[str, KindCosts], model: ModelCosts, mix: Mapping[str, float], *, share: float, answers: int
) -> tuple[int, Outcome, Outcome]:
    """The fewest CPUs with which the replica gives `share` of what it gives with any number of them.

    Returns that number, the outcome with it, and the outcome with CPUs in plenty.
    """
    users = 2 * model.max_running

    def outcome(cpus: int) -> Outcome:
        return Pipeline(costs, model, mix, cpus=cpus, users=users).run(answers, 2 * users)

    plenty = outcome(users)
    low, high = 0, users
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if outcome(middle).rate >= share * plenty.rate else (middle, high)
    return high, outcome(high), plenty
