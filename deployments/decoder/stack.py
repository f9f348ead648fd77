"""The frames of one video on their way out: one preallocated array, filled in any order.

Shape legend: T frames, H height, W width, C channels (RGB).
"""

import numpy as np
from numpy.typing import NDArray

from deployments.decoder.limits import Limits
from deployments.media.geometry import target_size
from deployments.types import ResizeRule


class FrameStack:
    """Room for `slots` frames of one size, which the first frame decides."""

    def __init__(self, slots: int, resize: ResizeRule | None, limits: Limits, label: str) -> None:
        self._resize = resize
        self._limits = limits
        self.label = label
        self._filled = np.zeros(slots, np.bool_)
        self._frames_THWC: NDArray[np.uint8] | None = None
        self.source_size = (0, 0)
        """(H, W) of a source frame as displayed."""
        self.rotation_deg = 0

    @property
    def complete(self) -> bool:
        return bool(self._filled.all())

    @property
    def share_missing(self) -> float:
        """1.0 before the first frame, 0.0 after the last."""
        return 1.0 - float(self._filled.mean())

    @property
    def missing(self) -> NDArray[np.int64]:
        """Slots without a frame, ascending."""
        return np.flatnonzero(~self._filled)

    def begin(self, height: int, width: int, rotation_deg: int = 0) -> tuple[int, int]:
        """(H, W) to deliver for source frames displayed at `height` x `width`; the first call decides and allocates.

        Frames are never enlarged here: that would only make them heavier to pass on.
        """
        if self._frames_THWC is None:
            self.source_size, self.rotation_deg = (height, width), rotation_deg
            size = (height, width)
            if self._resize is not None:
                target = target_size(self._resize, len(self._filled), height, width, self.label)
                if target[0] <= height and target[1] <= width:
                    size = target
            self._limits.check_output(len(self._filled), *size)
            self._frames_THWC = np.empty((len(self._filled), *size, 3), np.uint8)
        _, height, width, _ = self._frames_THWC.shape
        return height, width

    def slot(self, number: int) -> NDArray[np.uint8]:
        """The place for a frame, (H, W, 3), which the caller fills at once; `begin` comes first."""
        assert self._frames_THWC is not None
        self._filled[number] = True
        frame_HWC: NDArray[np.uint8] = self._frames_THWC[number]
        return frame_HWC

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(T, H, W, 3) contiguous, and the slots that its frames stood in; lost ones are left out."""
        kept = np.flatnonzero(self._filled)
        if self._frames_THWC is None:
            return np.empty((0, 0, 0, 3), np.uint8), kept
        if not self.complete:
            for place, slot in enumerate(kept):
                self._frames_THWC[place] = self._frames_THWC[slot]
        return self._frames_THWC[: len(kept)], kept
