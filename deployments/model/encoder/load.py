"""How much of a replica the media in its hands take: the patches still to encode, and the pace at which it encodes."""

from collections import deque
from collections.abc import Collection
from statistics import fmean

from deployments.autoscaling import StageLoad
from deployments.core.work_rate import WorkRate
from deployments.model.encoder.work import EncodeWork

RECENT = 32
"""Requests by which the next one is judged."""
_MEMORY = 0.98


class EncoderLoad:
    """Belongs to the loop's thread; any thread may read `load`."""

    def __init__(self, target_backlog_s: float) -> None:
        """`target_backlog_s`: how long what one replica has before it should take."""
        self.load: StageLoad | None = None
        """As of the last `update`; None before the first request was encoded."""
        self._target_s = target_backlog_s
        self._rate = WorkRate(_MEMORY)
        self._recent: deque[int] = deque(maxlen=RECENT)
        """Values of each."""

    def record_step(self, values: int, seconds: float) -> None:
        """So much was encoded."""
        self._rate.did(values, seconds)

    def record_end(self, work: EncodeWork) -> None:
        """All of a request's media have been encoded."""
        self._recent.append(work.values)

    def update(self, in_hand: Collection[EncodeWork]) -> None:
        """Look at what waits."""
        if self._recent:
            loads = [self._of(work.values_left) for work in in_hand]
            self.load = StageLoad(sum(loads), fmean(self._of(values) for values in self._recent))

    def _of(self, values: int) -> float:
        return min(1.0, (self._rate.seconds_for(values) or 0.0) / self._target_s)
