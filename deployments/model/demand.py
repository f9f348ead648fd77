"""How much of a replica the requests of the engine take: prompt tokens to prefill, slots of the KV cache."""

from collections import deque
from statistics import fmean

from deployments.autoscaling import StageLoad
from deployments.model.scheduler import Scheduler
from deployments.model.sequence import Sequence

RECENT = 32
"""Requests by which the next one is judged."""


class Demand:
    """Belongs to the engine's thread; any thread may read `load`."""

    def __init__(
        self, scheduler: Scheduler, num_slots: int, target_prefill_tokens: int, target_kv_usage: float
    ) -> None:
        """The targets are what one replica should have before it."""
        self.load: StageLoad | None = None
        """As of the last `update`; None before the first request."""
        self._scheduler = scheduler
        self._target_tokens = target_prefill_tokens
        self._target_slots = num_slots * target_kv_usage
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        """(prefill, slots) of each."""

    def took(self, sequence: Sequence) -> None:
        """A request came in."""
        self._recent.append((self._prefill(sequence.num_prompt), len(sequence.choices) / self._target_slots))

    def update(self) -> None:
        """Look at what waits and runs. The scarcer of the two, prefill and slots, is the load."""
        if not self._recent:
            return
        jobs = [*self._scheduler.waiting, *self._scheduler.running]
        prefill = sum(self._prefill(job.sequence.num_prompt - job.sequence.num_prefilled) for job in jobs)
        slots = sum(len(job.sequence.live_choices) for job in jobs) / self._target_slots
        prefills, slot_shares = zip(*self._recent, strict=True)
        self.load = StageLoad(max(prefill, slots), max(fmean(prefills), fmean(slot_shares)))

    def _prefill(self, tokens: int) -> float:
        return min(1.0, tokens / self._target_tokens)
