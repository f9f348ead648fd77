"""The videos that a replica has in hand, by the pixels that are still to decode for them."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean

from deployments.autoscaling import StageLoad

RECENT = 8
"""Finished videos by which the next one is judged."""


class VideoWork:
    """One video. Written by its thread, read by the event loop."""

    def __init__(self) -> None:
        self.megapixels: float | None = None
        """What the codec has to decode for the frames wanted; None until the packets have been read."""
        self.share_left: Callable[[], float] = lambda: 1.0
        """1.0 before the first frame, 0.0 after the last."""

    @property
    def megapixels_left(self) -> float | None:
        return None if self.megapixels is None else self.megapixels * self.share_left()


class Backlog:
    """Belongs to the event loop."""

    def __init__(self, target_megapixels: float) -> None:
        """`target_megapixels`: what one replica should have before it."""
        self._target = target_megapixels
        self._in_hand: list[VideoWork] = []
        self._recent: deque[float] = deque(maxlen=RECENT)

    @contextmanager
    def video(self) -> Iterator[VideoWork]:
        """A video is in hand while the block lasts; whoever learns what it costs writes it down there."""
        work = VideoWork()
        self._in_hand.append(work)
        try:
            yield work
        finally:
            self._in_hand.remove(work)
            if work.megapixels is not None:
                self._recent.append(self._load(work.megapixels))

    @property
    def megapixels(self) -> float:
        """Still to decode, of the videos whose packets have been read."""
        return sum(work.megapixels_left or 0.0 for work in self._in_hand)

    def load(self) -> StageLoad | None:
        """None before the first video is known."""
        known = [*self._recent, *(self._load(work.megapixels) for work in self._in_hand if work.megapixels is not None)]
        if not known:
            return None
        of_next = fmean(known)
        left = [work.megapixels_left for work in self._in_hand]
        return StageLoad(sum(of_next if number is None else self._load(number) for number in left), of_next)

    def _load(self, megapixels: float) -> float:
        return min(1.0, megapixels / self._target)
