"""Which frames of a video are taken: arithmetic on their presentation times. Knows nothing of files or codecs.

Times decide, not frame numbers, so that a video of variable frame rate is sampled evenly over what a viewer would see.
"""

import numpy as np
from numpy.typing import NDArray

from deployments.errors import BadRequest
from deployments.types import FrameSampling

_ROUNDING = 1 / 3
"""Of the time between two frames: slots that would begin this close to the end are rounding errors, of clocks that
count milliseconds (Matroska, Flash) and of rates like 29.97."""


def sample(times_s: NDArray[np.float64], sampling: FrameSampling, label: str) -> NDArray[np.int64]:
    """Numbers of the frames to take, ascending and distinct, at least one.

    times_s: (frames,), ascending, in seconds since the first frame; at least one.
    `num_frames` is spread uniformly with both ends taken. `fps` takes the frame nearest to each 1/fps seconds; when
    that gives more than `max_frames` or fewer than `min_frames`, that many are spread uniformly instead.
    Raises `BadRequest` for a span (`start_s`, `end_s`) in which nothing is shown, for a count below 1, and for a rate
    that is not above 0.
    """
    first, last = _span(times_s, sampling, label)
    times = times_s[first : last + 1]
    if sampling.fps is None:
        if sampling.num_frames is None or sampling.num_frames < 1:
            raise BadRequest(f"num_frames must be at least 1, not {sampling.num_frames}", param=label)
        return first + _uniform(times, min(sampling.num_frames, sampling.max_frames))
    if not sampling.fps > 0:
        raise BadRequest(f"fps must be above 0, not {sampling.fps}", param=label)
    taken = _each(times, sampling.fps)
    bounded = min(max(len(taken), sampling.min_frames), sampling.max_frames)
    return first + (taken if len(taken) == bounded else _uniform(times, bounded))


def _span(times_s: NDArray[np.float64], sampling: FrameSampling, label: str) -> tuple[int, int]:
    """First and last frame between `start_s` and `end_s`; the one on display at `start_s` when none begins between."""
    start_s = 0.0 if sampling.start_s is None else sampling.start_s
    end_s = float(times_s[-1]) if sampling.end_s is None else sampling.end_s
    if not 0 <= start_s <= end_s:
        raise BadRequest(
            f"the span from {start_s:g} s to {end_s:g} s holds no frame: "
            f"the video's last one is shown at {times_s[-1]:.3f} s",
            param=label,
        )
    first = int(np.searchsorted(times_s, start_s, side="left"))
    last = int(np.searchsorted(times_s, end_s, side="right")) - 1
    return min(first, last), last


def _uniform(times: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """`count` distinct frames, or all of them, evenly over the time between the first and the last."""
    frames = len(times)
    if count >= frames:
        return np.arange(frames)
    if count == 1:
        return np.zeros(1, np.int64)
    positions = np.linspace(0, frames - 1, count)
    if not _is_even(times):
        positions = np.interp(np.linspace(times[0], times[-1], count), times, np.arange(frames))
    return _distinct(np.round(positions).astype(np.int64), frames)


def _is_even(times: NDArray[np.float64]) -> bool:
    """Whether frames come at a constant rate, but for the rounding of a container's time base."""
    ideal = np.linspace(times[0], times[-1], len(times))
    return bool(np.abs(times - ideal).max() < 0.5 * (times[-1] - times[0]) / (len(times) - 1))


def _distinct(ascending: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """Moved apart as little as needed, all below `frames`: several moments of a long still picture are one frame."""
    steps = np.arange(len(ascending))
    upward = np.maximum.accumulate(ascending - steps) + steps
    return np.minimum(upward, frames - len(ascending) + steps)


def _each(times: NDArray[np.float64], fps: float) -> NDArray[np.int64]:
    """The frame nearest to each multiple of 1/fps seconds after the first, where one is within half of that."""
    since = times - times[0]
    slots = np.round(since * fps)
    interval = since[-1] / (len(times) - 1) if len(times) > 1 else 0.0
    wanted = max(1.0, np.ceil((since[-1] + (1 - _ROUNDING) * interval) * fps - 1e-9))
    order = np.lexsort((np.abs(since - slots / fps), slots))
    _, nearest = np.unique(slots[order], return_index=True)
    taken = order[nearest]
    return np.asarray(taken[slots[taken] < wanted])
