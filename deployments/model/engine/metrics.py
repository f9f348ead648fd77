"""What the engine reports about itself, at a pace that costs nothing."""

import time

from deployments.model.engine.load import Demand
from deployments.model.engine.scheduler import Scheduler
from deployments.model.kv_cache.cache import SlotCache
from deployments.model.multimodal.request_media import Ledger
from deployments.model.sequence import Phase
from deployments.observability.metrics import MetricSink

REPORT_EVERY_S = 0.25
_PROMPTS = (Phase.ENCODE, Phase.PREFILL)


class Gauges:
    """Belongs to the engine's thread."""

    def __init__(
        self, sink: MetricSink, scheduler: Scheduler, ledger: Ledger, cache: SlotCache, demand: Demand
    ) -> None:
        self._sink = sink
        self._scheduler = scheduler
        self._ledger = ledger
        self._cache = cache
        self._demand = demand
        self._reported = 0.0

    def batch(self, sequences: int) -> None:
        """A decode step ran with so many sequences."""
        self._sink.observe("sluice_batch_size", sequences)

    def report(self, *, now: bool = False) -> None:
        """Set the gauges when it is time, or `now`."""
        instant = time.monotonic()
        if not now and instant - self._reported < REPORT_EVERY_S:
            return
        self._reported = instant
        self._demand.update()
        held = sum(
            job.sequence.length(choice) if choice.token_ids else job.sequence.num_prefilled
            for job, choice in self._scheduler.slots
        )
        waiting = self._scheduler.waiting
        prefilling = [job.sequence for job in self._scheduler.running if job.sequence.phase in _PROMPTS]
        left = sum(s.num_prompt - s.num_prefilled for s in [*prefilling, *(job.sequence for job in waiting)])
        gauge = self._sink.gauge
        gauge("sluice_sequences_running", len(self._scheduler.slots))
        gauge("sluice_sequences_waiting", sum(len(job.sequence.choices) for job in waiting))
        gauge("sluice_kv_tokens", held)
        gauge("sluice_kv_usage", held / (self._cache.num_slots * self._cache.max_length))
        gauge("sluice_waiting_prefill_tokens", left)
        gauge("sluice_load", self._demand.load.in_hand if self._demand.load else 0.0)
        for place, num_bytes in self._ledger.alive.items():
            gauge("sluice_multimodal_bytes", num_bytes, place=place)
        gauge("sluice_encoder_cache_bytes", self._ledger.cached_bytes)
