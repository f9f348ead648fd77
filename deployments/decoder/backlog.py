"""The videos that a replica has in hand, by the pixels still to decode for them and the pace at which it decodes."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean

from deployments.autoscaling import StageLoad
from deployments.core.work_rate import WorkRate

RECENT = 8
"""Finished videos by which the next one is judged."""
_MEMORY = 0.9


class VideoWork:
    """One video. Written by its thread, read by the event loop."""

    def __init__(self) -> None:
        self.megapixels: float | None = None
        """What the codec has to decode for the frames wanted; None until the packets have been read."""
        self.share_left: Callable[[], float] = lambda: 1.0
        """1.0 before the first frame, 0.0 after the last."""
        self.began: float | None = None
        """When a thread took it, by the monotonic clock."""

    @property
    def megapixels_left(self) -> float | None:
        return None if self.megapixels is None else self.megapixels * self.share_left()


class Backlog:
    """Belongs to the event loop."""

    def __init__(self, target_backlog_s: float, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`target_backlog_s`: how long what one replica has before it should take its `workers` threads."""
        self._target_s = target_backlog_s
        self._workers = workers
        self._clock = clock
        self._rate = WorkRate(_MEMORY)
        self._in_hand: list[VideoWork] = []
        self._recent: deque[float] = deque(maxlen=RECENT)
        """Megapixels of each."""

    @contextmanager
    def video(self) -> Iterator[VideoWork]:
        """A video is in hand while the block lasts; whoever learns what it costs writes it down there."""
        work = VideoWork()
        self._in_hand.append(work)
        try:
            yield work
        finally:
            self._in_hand.remove(work)
            self._learn(work)

    @property
    def videos(self) -> int:
        """In hand: on a thread, or waiting for one."""
        return len(self._in_hand)

    @property
    def megapixels(self) -> float:
        """Still to decode, of the videos whose packets have been read."""
        return sum(work.megapixels_left or 0.0 for work in self._in_hand)

    def load(self) -> StageLoad | None:
        """None before the first video is done: until then nobody knows how long one takes."""
        if not self._recent:
            return None
        of_next = fmean(self._load(megapixels) for megapixels in self._recent)
        left = [work.megapixels_left for work in self._in_hand]
        return StageLoad(sum(of_next if number is None else self._load(number) for number in left), of_next)

    def _learn(self, work: VideoWork) -> None:
        """Also of a video that failed half way: what was decoded took its time."""
        if work.megapixels is None or work.began is None:
            return
        done = work.megapixels * (1.0 - work.share_left())
        if done:
            self._recent.append(work.megapixels)
            self._rate.did(done, self._clock() - work.began)

    def _load(self, megapixels: float) -> float:
        """One video is at most the share of the one thread that it can take."""
        return min(1.0, (self._rate.seconds_for(megapixels) or 0.0) / self._target_s) / self._workers
