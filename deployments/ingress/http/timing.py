"""Where a request's time went, by stage, as clients see it: the `Server-Timing` header and the usage extension."""

from deployments.types import CacheUse, GenerateTimes, StageName

_STAGES = [stage.value for stage in StageName]
_BY_WORK = (CacheUse.OFF, CacheUse.HIT, CacheUse.REVALIDATED, CacheUse.MISS)


class Timings:
    """Seconds by stage; of items worked on at once the longest counts. Told in the order of the stages, although some
    are done side by side."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.waits: dict[str, float] = {}
        """What of them was not work: for a replica, a thread or a slot, and the way there and back."""
        self.cache: dict[str, CacheUse] = {}
        """What of a stage's work was there already; of several items the one that took most."""

    def note(self, stage: StageName, seconds: float, *, worked_s: float | None = None) -> None:
        """`worked_s`: what the stage itself took of it, where it says so."""
        name = stage.value
        self.seconds[name] = max(seconds, self.seconds.get(name, 0.0))
        if worked_s is not None:
            self.waits[name] = max(0.0, seconds - worked_s, self.waits.get(name, 0.0))

    @property
    def waited_inside_s(self) -> float:
        """Of the time since admission, what was spent waiting for others' work."""
        return sum(seconds for stage, seconds in self.waits.items() if stage != StageName.ADMISSION.value)

    def note_cache(self, stage: StageName, use: CacheUse) -> None:
        """An item's, at a stage."""
        name = stage.value
        self.cache[name] = max(use, self.cache.get(name, use), key=_BY_WORK.index)

    def note_generation(self, times: GenerateTimes) -> None:
        self.note(StageName.QUEUE, times.queue_s, worked_s=0.0)
        self.note(StageName.ENCODE, times.encode_s)
        self.note(StageName.PREFILL, times.prefill_s)
        self.note(StageName.DECODE, times.decode_s)

    def header(self) -> str:
        """For `Server-Timing`: `fetch;dur=12.3;desc="hit", preprocess;dur=4.5`, in milliseconds."""
        return ", ".join(
            f"{stage};dur={seconds * 1000:.1f}" + (f';desc="{self.cache[stage]}"' if stage in self.cache else "")
            for stage, seconds in self._in_order()
        )

    def milliseconds(self) -> dict[str, float]:
        return {stage: round(seconds * 1000, 1) for stage, seconds in self._in_order()}

    def _in_order(self) -> list[tuple[str, float]]:
        return sorted(self.seconds.items(), key=lambda noted: _STAGES.index(noted[0]))
