"""How much of a replica the requests of the engine take: prompt tokens to prefill, places among those who
run, pages of the KV cache."""

from collections import deque
from statistics import fmean

from deployments.autoscaling import StageLoad
from deployments.core.work_rate import WorkRate
from deployments.model.engine.scheduler import Scheduler
from deployments.model.kv_cache.cache import KVCache
from deployments.model.sequence import Sequence

RECENT = 32
"""Requests by which the next one is judged."""
_MEMORY = 0.98


class EngineLoad:
    """Belongs to the engine's thread; any thread may read `load`."""

    def __init__(self, scheduler: Scheduler, cache: KVCache, target_backlog_s: float, target_kv_usage: float) -> None:
        """The targets are what one replica should have before it."""
        self.load: StageLoad | None = None
        """As of the last `update`; None before the first request."""
        self._scheduler = scheduler
        self._cache = cache
        self._target_s = target_backlog_s
        self._target_sequences = scheduler.max_running * target_kv_usage
        self._target_pages = cache.pool.num_pages * target_kv_usage
        self._rate = WorkRate(_MEMORY)
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT)
        """Prompt tokens and answers of each."""

    def record_arrival(self, sequence: Sequence) -> None:
        """A request came in."""
        self._recent.append((sequence.num_prompt, len(sequence.choices)))

    def record_step(self, seconds: float, prompts: int, prefilled: int) -> None:
        """A step took so long and prefilled so many tokens; so many prompts were on their way, if any at its cost.

        All of it: what is encoded for them, and the answers that decode beside them, hold them up as well.
        """
        if prompts:
            self._rate.did(prefilled, seconds)

    def update(self) -> None:
        """Look at what waits and runs. The scarcest of time to prefill, places and pages is the load."""
        if not self._recent:
            return
        sequences = [request.sequence for request in self._scheduler.requests]
        prefill = sum(self._prefill(sequence.num_prompt - sequence.num_prefilled) for sequence in sequences)
        answers = sum(len(sequence.live_choices) for sequence in sequences)
        room = self._room(answers, self._taken_pages() + self._wanted_pages())
        prefills = fmean(self._prefill(tokens) for tokens, _ in self._recent)
        rooms = fmean(self._room(answers, self._pages(tokens, answers)) for tokens, answers in self._recent)
        self.load = StageLoad(max(prefill, room), max(prefills, rooms))

    def _room(self, answers: int, pages: int) -> float:
        """Of places or pages, whichever are scarcer."""
        return max(answers / self._target_sequences, pages / self._target_pages)

    def _taken_pages(self) -> int:
        """By those who run: what several share counts once, what is kept for others to come does not count."""
        return self._cache.pool.num_pages - self._cache.num_available

    def _wanted_pages(self) -> int:
        """By prompts that are not in the cache yet, and by those who wait."""
        waiting = [request.sequence for request in self._scheduler.waiting]
        new = sum(self._pages(_length(sequence), len(sequence.live_choices)) for sequence in waiting)
        return self._scheduler.promised_pages + new

    def _pages(self, tokens: int, answers: int) -> int:
        """Of a request that shares none."""
        return self._cache.pages_for(tokens) + answers - 1

    def _prefill(self, tokens: int) -> float:
        """Nothing before the first prefill: nobody knows how long one takes."""
        return min(1.0, (self._rate.seconds_for(tokens) or 0.0) / self._target_s)


def _length(sequence: Sequence) -> int:
    """Tokens of its longest answer and its prompt."""
    return sequence.num_prompt + max((choice.num_tokens for choice in sequence.choices), default=0)
