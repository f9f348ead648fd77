"""What a span says of a stage's answer."""

from deployments.observability.spans import Span
from deployments.types import DecodedVideo, EncodedMedia, Fetched, GenerateChunk, GenerateTimes, Prepared, StageName


def describe(span: Span, value: object) -> None:
    """Note what a stage's answer says of the work: sizes and counts, never addresses, names or content."""
    match value:
        case Fetched():
            span.note({"sluice.kind": str(value.kind), "sluice.container": value.container})
            span.note({"sluice.bytes": value.size_bytes})
        case DecodedVideo():
            span.note({"sluice.frames": len(value.indices), "sluice.lost_frames": value.lost_frames})
            span.note({"sluice.source_frames": value.total_frames, "sluice.backend": value.backend})
        case Prepared():
            counts = value.counts.by_modality
            span.note({f"sluice.{modality}_tokens": count for modality, count in counts.items()})
        case EncodedMedia():
            span.note({"sluice.items_encoded": len(value.encoded), "sluice.bytes": value.size_bytes})
        case GenerateChunk(times=GenerateTimes() as times):
            _phases(span, times)


def _phases(span: Span, times: GenerateTimes) -> None:
    phases = {
        StageName.QUEUE: times.queue_s,
        StageName.ENCODE: times.encode_s,
        StageName.PREFILL: times.prefill_s,
        StageName.DECODE: times.decode_s,
    }
    left_s = sum(phases.values())
    for name, seconds in phases.items():
        left_s -= seconds
        span.phase(name, seconds, left_s)
