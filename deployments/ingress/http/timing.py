"""Where a request's time went, by stage, as clients see it: the `Server-Timing` header and the usage extension."""

from deployments.types import GenerateTimes, StageName


class Timings:
    """Seconds by stage, in the order of the stages; of items worked on at once the longest counts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.waits: dict[str, float] = {}
        """What of them was not work: for a replica, a thread or a slot, and the way there and back."""

    def note(self, stage: StageName, seconds: float, *, worked_s: float | None = None) -> None:
        """`worked_s`: what the stage itself took of it, where it says so."""
        name = stage.value
        self.seconds[name] = max(seconds, self.seconds.get(name, 0.0))
        if worked_s is not None:
            self.waits[name] = max(0.0, seconds - worked_s, self.waits.get(name, 0.0))

    def note_generation(self, times: GenerateTimes) -> None:
        self.note(StageName.QUEUE, times.queue_s, worked_s=0.0)
        self.note(StageName.ENCODE, times.encode_s)
        self.note(StageName.PREFILL, times.prefill_s)
        self.note(StageName.DECODE, times.decode_s)

    def header(self) -> str:
        """For `Server-Timing`: `fetch;dur=12.3, preprocess;dur=4.5`, in milliseconds."""
        return ", ".join(f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in self.seconds.items())

    def milliseconds(self) -> dict[str, float]:
        return {stage: round(seconds * 1000, 1) for stage, seconds in self.seconds.items()}
