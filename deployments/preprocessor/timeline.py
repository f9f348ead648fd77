"""A decoded video's times in the terms of transformers' `VideoMetadata`, such that what a prompt says is true.

The processors compute a frame's time as index / fps, and the rate of the frames they got as count / total * fps. Both
come out true for any video when the three numbers are chosen for it.
"""

from typing import Any

from deployments.types import DecodedVideo

_CONSTANT_RATE_S = 0.0005
"""Timestamps this close to index / fps are those of a constant frame rate."""
_TICKS_PER_S = 1_000_000


def sampled_fps(video: DecodedVideo) -> float:
    """Frames delivered per second of the video's own time; of a lone frame its source's rate."""
    times = video.timestamps_s
    if len(times) < 2 or times[-1] <= times[0]:
        return video.source_fps
    return (len(times) - 1) / (times[-1] - times[0])


def video_metadata(video: DecodedVideo) -> dict[str, Any]:
    """Arguments of `VideoMetadata` for the frames that were delivered."""
    fps, indices = video.source_fps, list(video.indices)
    times = zip(indices, video.timestamps_s, strict=True)
    if any(abs(index / fps - seconds) > _CONSTANT_RATE_S for index, seconds in times):
        fps, indices = float(_TICKS_PER_S), [round(seconds * _TICKS_PER_S) for seconds in video.timestamps_s]
    return {
        "fps": fps,
        "frames_indices": indices,
        "total_num_frames": len(indices) * fps / sampled_fps(video),
        "duration": video.duration_s,
    }
