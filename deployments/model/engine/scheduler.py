"""Who runs next: first come, first served, within the slots of the cache, the encoders' budget and the chunk's size.

Owns the slots: those in use are always the first ones, so that decode steps work on dense rows. Of tensors it knows the
bytes that a request's media will take, no more.
"""

from collections import deque
from dataclasses import dataclass

from deployments.model.kv_cache.cache import SlotCache
from deployments.model.multimodal.request_media import Ledger, Media
from deployments.model.sequence import Choice, Phase, Sequence


@dataclass(slots=True, eq=False)
class Job:
    """A request in the scheduler's hands."""

    sequence: Sequence
    media: Media
    device_bytes: int
    """What its media will take at most on the device until the prefill is done."""


class Scheduler:
    """Belongs to the engine's thread."""

    def __init__(self, cache: SlotCache, ledger: Ledger) -> None:
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        """Those with slots, in the order of their arrival."""
        self._cache = cache
        self._ledger = ledger
        self._owners: list[tuple[Job, Choice]] = []
        """By slot, dense."""

    @property
    def slots(self) -> list[tuple[Job, Choice]]:
        """Who owns each slot in use, by the slot's number."""
        return self._owners

    @property
    def jobs(self) -> list[Job]:
        """All there are."""
        return [*self.waiting, *self.running]

    def give_up(self) -> list[Job]:
        """All requests, which are forgotten; what they hold is not let go."""
        jobs = self.jobs
        self.waiting.clear()
        self.running.clear()
        return jobs

    def admit(self) -> None:
        """Give slots to waiting requests, in their order, while slots and the encoders' budget last."""
        while self.waiting:
            job = self.waiting[0]
            if len(self._owners) + len(job.sequence.choices) > self._cache.num_slots:
                break
            if not self._ledger.has_room(job.device_bytes):
                break
            self.waiting.popleft()
            for choice in job.sequence.choices:
                choice.slot = len(self._owners)
                self._owners.append((job, choice))
            self._ledger.reserved_bytes += job.device_bytes
            job.sequence.phase = Phase.ENCODE
            self.running.append(job)

    @property
    def decoding(self) -> bool:
        """Whether any answer is under way."""
        return any(job.sequence.phase is Phase.DECODE for job in self.running)

    @property
    def prompts(self) -> int:
        """Requests with slots that have no first token yet."""
        return sum(job.sequence.phase is not Phase.DECODE for job in self.running)

    @property
    def pressure(self) -> float | None:
        """Requests on their way to a first token for each one that decodes; None when none does."""
        decoding = len(self.running) - self.prompts
        return self.prompts / decoding if decoding else None

    @property
    def next_prompt(self) -> Job | None:
        """The first of those whose prompt is not in the cache yet."""
        return next((job for job in self.running if job.sequence.phase is not Phase.DECODE), None)

    @property
    def encoding(self) -> list[Job]:
        """Whose media are to be encoded, in the order of their arrival."""
        return [job for job in self.running if job.sequence.phase is Phase.ENCODE]

    def prefill_plan(self, budget: int) -> list[tuple[Job, int]]:
        """Prefilling requests and up to which prompt token each goes in this step, within `budget` tokens in all."""
        plan = []
        for job in self.running:
            if job.sequence.phase is not Phase.PREFILL:
                continue
            if budget <= 0:
                break
            end = job.media.chunk_end(job.sequence.num_prefilled, job.sequence.num_prefilled + budget)
            end = min(end, job.sequence.num_prompt)
            budget -= end - job.sequence.num_prefilled
            plan.append((job, end))
        return plan

    def prefilled(self, job: Job) -> None:
        """The prompt is in the cache: its media are let go, its choices decode."""
        self._release_media(job)
        job.sequence.phase = Phase.DECODE

    def finish_choice(self, job: Job, choice: Choice) -> None:
        """Free a choice's slot; the last slot in use moves into the hole."""
        hole, last = choice.slot, len(self._owners) - 1
        moved_job, moved = self._owners[last]
        if hole != last:
            self._cache.copy_slot(last, hole, _held(moved_job.sequence, moved))
            moved.slot = hole
            self._owners[hole] = (moved_job, moved)
        self._owners.pop()
        choice.slot = -1
        choice.counts_V = None

    def remove(self, job: Job) -> None:
        """Forget a request, wherever it stands, with all its slots."""
        if job.sequence.phase is Phase.WAITING:
            self.waiting.remove(job)
        else:
            self.running.remove(job)
            for choice in job.sequence.choices:
                if choice.slot >= 0:
                    self.finish_choice(job, choice)
            self._release_media(job)
        job.media.drop()
        job.sequence.phase = Phase.DONE

    def _release_media(self, job: Job) -> None:
        job.media.drop()
        self._ledger.reserved_bytes -= job.device_bytes
        job.device_bytes = 0


def _held(sequence: Sequence, choice: Choice) -> int:
    """Tokens that a slot holds: the prompt's own ones until the first token has been chosen."""
    return sequence.length(choice) if choice.token_ids else sequence.num_prefilled
