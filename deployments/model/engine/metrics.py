"""What the engine reports about itself, at a pace that costs nothing."""

import time
from dataclasses import dataclass

from deployments.model.engine.load import EngineLoad
from deployments.model.engine.scheduler import Scheduler
from deployments.model.kv_cache.cache import KVCache
from deployments.model.multimodal.request_media import MediaMemory
from deployments.model.sequence import Phase, Sequence
from deployments.observability.metrics import MetricSink
from deployments.types import StageName

REPORT_EVERY_S = 0.25
_PROMPTS = (Phase.ENCODE, Phase.PREFILL)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The engine at an instant; about, where its thread goes on meanwhile."""

    waiting: int
    """Requests."""
    running: int
    """Sequences."""
    pages_used: int
    """By sequences."""
    pages_free: int
    """Neither used nor kept."""
    pages_cached: int
    """Kept for prompts that begin alike, and used by nobody else."""
    preemptions: int
    """Since the start."""
    media_host_bytes: int
    media_device_bytes: int
    media_reserved_bytes: int
    """Promised on the device to requests whose prefill is not done."""
    encoder_cache_bytes: int


class EngineMetrics:
    """Belongs to the engine's thread."""

    def __init__(
        self, sink: MetricSink, scheduler: Scheduler, memory: MediaMemory, cache: KVCache, load: EngineLoad
    ) -> None:
        self._sink = sink
        self._scheduler = scheduler
        self._memory = memory
        self._cache = cache
        self._load = load
        self._reported = 0.0
        self._preemptions = 0

    def batch(self, sequences: int) -> None:
        """A step decoded so many sequences."""
        self._sink.observe("sluice_batch_size", sequences)

    def prefilled(self, sequence: Sequence) -> None:
        """A prompt is in the cache."""
        self._sink.count("sluice_prefix_cache_hit_tokens", sequence.num_cached)
        self._sink.count("sluice_prefix_cache_prompt_tokens", sequence.num_prompt)

    def snapshot(self, arrived: int) -> Snapshot:
        """`arrived`: requests that nobody has looked at yet."""
        pool, prefixes = self._cache.pool, self._cache.prefixes
        idle = 0 if prefixes is None else prefixes.num_idle
        return Snapshot(
            waiting=len(self._scheduler.waiting) + arrived,
            running=self._scheduler.num_sequences,
            pages_used=pool.num_pages - pool.num_free - idle,
            pages_free=pool.num_free,
            pages_cached=idle,
            preemptions=self._scheduler.num_preemptions,
            media_host_bytes=self._memory.alive["host"],
            media_device_bytes=self._memory.alive["device"],
            media_reserved_bytes=self._memory.reserved_bytes,
            encoder_cache_bytes=self._memory.cached_bytes,
        )

    def report(self, *, now: bool = False) -> None:
        """Set the gauges when it is time, or `now`."""
        instant = time.monotonic()
        if not now and instant - self._reported < REPORT_EVERY_S:
            return
        self._reported = instant
        self._load.update()
        state = self.snapshot(0)
        waiting = self._scheduler.waiting
        prefilling = [r.sequence for r in self._scheduler.running if r.sequence.phase in _PROMPTS]
        held = sum(sequence.num_prefilled for sequence in prefilling)
        held += sum(request.sequence.length(choice) for request, choice in self._scheduler.decoding)
        left = sum(s.num_prompt - s.num_prefilled for s in [*prefilling, *(request.sequence for request in waiting)])
        gauge = self._sink.gauge
        gauge("sluice_sequences_running", state.running)
        gauge("sluice_sequences_waiting", sum(len(request.sequence.choices) for request in waiting))
        gauge("sluice_kv_tokens", held)
        gauge("sluice_kv_usage", state.pages_used / self._cache.pool.num_pages)
        gauge("sluice_kv_cached_pages", state.pages_cached)
        gauge("sluice_waiting_prefill_tokens", left)
        gauge("sluice_load", self._load.load.in_hand if self._load.load else 0.0)
        self._sink.count("sluice_preemptions", state.preemptions - self._preemptions)
        self._preemptions = state.preemptions
        for place, num_bytes in self._memory.alive.items():
            gauge("sluice_multimodal_bytes", num_bytes, place=place)
        gauge("sluice_cache_bytes", self._memory.cached_bytes, cache=StageName.ENCODE)
