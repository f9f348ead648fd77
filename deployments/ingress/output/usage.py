"""What an answer took, in OpenAI's words; extensions: tokens of all modalities, `sluice_timing_ms`, `sluice_videos`,
`sluice_cache`."""

from collections.abc import Sequence
from typing import Any

from deployments.ingress.http.timing import Timings
from deployments.ingress.output.answer import Answer
from deployments.types import MODALITIES, CacheUse, DecodedVideo


def usage(answers: Sequence[Answer], timings: Timings | None) -> dict[str, Any]:
    """Of one request, or of several in one; `timings`: None while the answer is under way."""
    counts = [answer.prompt.prepared.counts for answer in answers]
    prompt_tokens = sum(count.total for count in counts)
    completion_tokens = sum(answer.completion_tokens for answer in answers)
    worded: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": sum(answer.cached_tokens for answer in answers),
            **{f"{modality}_tokens": sum(count[modality] for count in counts) for modality in MODALITIES},
        },
        "completion_tokens_details": {"reasoning_tokens": sum(answer.reasoning_tokens for answer in answers)},
    }
    if timings is not None:
        worded["sluice_timing_ms"] = timings.milliseconds()
    videos = {label: _worded_video(video) for answer in answers for label, video in answer.prompt.videos.items()}
    if videos and timings is not None:
        worded["sluice_videos"] = videos
    cache = {label: use for answer in answers for label, use in _cache_uses(answer).items()}
    if cache and timings is not None:
        worded["sluice_cache"] = cache
    return worded


def _cache_uses(answer: Answer) -> dict[str, dict[str, str]]:
    """By item: what of it was there already."""
    worded = {}
    for label, use in answer.prompt.cache.items():
        encode = CacheUse.OFF if not answer.reuses else CacheUse.MISS if label in answer.encoded else CacheUse.HIT
        uses = {"fetch": use.fetch, "decode": use.decode, "encode": encode}
        worded[label] = {stage: told.value for stage, told in uses.items() if told is not None}
    return worded


def _worded_video(video: DecodedVideo) -> dict[str, Any]:
    return {
        "frame_indices": video.indices,
        "frame_timestamps_s": [round(timestamp, 3) for timestamp in video.timestamps_s],
        "total_frames": video.total_frames,
        "source_fps": round(video.source_fps, 3),
        "duration_s": round(video.duration_s, 3),
        "lost_frames": video.lost_frames,
    }
