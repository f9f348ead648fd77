"""How much of a replica the requests of the engine take: prompt tokens to prefill, slots of the KV cache."""

from collections import deque
from statistics import fmean

from deployments.autoscaling import StageLoad
from deployments.core.work_rate import WorkRate
from deployments.model.engine.scheduler import Scheduler
from deployments.model.sequence import Sequence

RECENT = 32
"""Requests by which the next one is judged."""
_MEMORY = 0.98


class Demand:
    """Belongs to the engine's thread; any thread may read `load`."""

    def __init__(self, scheduler: Scheduler, num_slots: int, target_backlog_s: float, target_kv_usage: float) -> None:
        """The targets are what one replica should have before it."""
        self.load: StageLoad | None = None
        """As of the last `update`; None before the first request."""
        self._scheduler = scheduler
        self._target_s = target_backlog_s
        self._target_slots = num_slots * target_kv_usage
        self._rate = WorkRate(_MEMORY)
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT)
        """Prompt tokens and slots of each."""

    def took(self, sequence: Sequence) -> None:
        """A request came in."""
        self._recent.append((sequence.num_prompt, len(sequence.choices)))

    def stepped(self, seconds: float, prompts: int, prefilled: int) -> None:
        """A step took so long and prefilled so many tokens; so many prompts were on their way, if any at its cost.

        All of it: what is encoded for them, and the answers that decode beside them, hold them up as well.
        """
        if prompts:
            self._rate.did(prefilled, seconds)

    def update(self) -> None:
        """Look at what waits and runs. The scarcer of the two, time to prefill and slots, is the load."""
        if not self._recent:
            return
        jobs = self._scheduler.jobs
        prefill = sum(self._prefill(job.sequence.num_prompt - job.sequence.num_prefilled) for job in jobs)
        slots = sum(len(job.sequence.live_choices) for job in jobs) / self._target_slots
        prefills = fmean(self._prefill(tokens) for tokens, _ in self._recent)
        slot_shares = fmean(choices for _, choices in self._recent) / self._target_slots
        self.load = StageLoad(max(prefill, slots), max(prefills, slot_shares))

    def _prefill(self, tokens: int) -> float:
        """Nothing before the first prefill: nobody knows how long one takes."""
        return min(1.0, (self._rate.seconds_for(tokens) or 0.0) / self._target_s)
