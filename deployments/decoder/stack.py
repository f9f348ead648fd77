"""The frames of one video on their way out: one preallocated array, filled in any order.

Shape legend: T frames, H height, W width, C channels (RGB).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.decoder.limits import Limits
from deployments.media.geometry import target_size
from deployments.media.patches import PatchStack, frames_of
from deployments.types import DecodedPart, PatchRule, ResizeRule


@dataclass(frozen=True, slots=True)
class Stacked:
    """The frames of one video, all in place."""

    payload: dict[str, NDArray[np.uint8]]
    """{"frames_THWC": contiguous} or {"patches": (rows, values of a row)}; of a part "planes_TCHW" in place of the
    latter."""
    kept: NDArray[np.int64]
    """The slots that the frames stood in."""
    patch_grid: tuple[int, int, int] | None
    """Of "patches"."""


class FrameStack:
    """Room for `slots` frames of one size, which the first frame decides.

    With `patches`, frames that have the size of `resize` are kept in the order of the model's own tensor.
    """

    def __init__(
        self,
        slots: int,
        resize: ResizeRule | None,
        limits: Limits,
        label: str,
        patches: PatchRule | None = None,
        clip_frames: int | None = None,
        *,
        whole_rows: bool = False,
    ) -> None:
        """`clip_frames`: of the video of which these are a part; patches, which may need frames of another part, then
        stay planes, unless these have `whole_rows`."""
        self._resize = resize
        self._rule = patches
        self._clip_frames = clip_frames
        self._stays_planes = clip_frames is not None and not whole_rows
        self.begun: Callable[[], None] = lambda: None
        """Called once the first frame has decided the size."""
        self._limits = limits
        self.label = label
        self._filled = np.zeros(slots, np.bool_)
        self._size: tuple[int, int] | None = None
        self._frames_THWC = np.empty((0, 0, 0, 3), np.uint8)
        self._patches: PatchStack | None = None
        self._planes_TCHW: NDArray[np.uint8] | None = None
        self.source_size = (0, 0)
        """(H, W) of a source frame as displayed."""
        self.rotation_deg = 0

    @property
    def complete(self) -> bool:
        return bool(self._filled.all())

    def share_missing(self) -> Callable[[], float]:
        """What tells 1.0 before the first frame, 0.0 after the last; whoever keeps it keeps no frames alive."""
        filled = self._filled
        return lambda: 1.0 - float(filled.mean())

    @property
    def row_grid(self) -> tuple[int, int] | None:
        """Patches over height and width, where frames become patches."""
        return None if self._patches is None else self._patches.grid[1:]

    @property
    def missing(self) -> NDArray[np.int64]:
        """Slots without a frame, ascending."""
        return np.flatnonzero(~self._filled)

    def begin(self, height: int, width: int, rotation_deg: int = 0) -> tuple[int, int]:
        """(H, W) to deliver for source frames displayed at `height` x `width`; the first call decides and allocates.

        Frames are never enlarged here: that would only make them heavier to pass on.
        """
        if self._size is None:
            self.source_size, self.rotation_deg = (height, width), rotation_deg
            self._size = self._allocate(height, width)
            self.begun()
        return self._size

    def put(self, slot: int, frame_HWC: NDArray[np.uint8]) -> None:
        """A frame of the size that `begin` gave."""
        if self._patches is not None or self._planes_TCHW is not None:
            self.put_planes(slot, [frame_HWC[..., channel] for channel in range(3)])
            return
        self._filled[slot] = True
        self._frames_THWC[slot] = frame_HWC

    def put_planes(self, slot: int, planes_HW: Sequence[NDArray[np.uint8]]) -> None:
        """The same as its red, green and blue planes."""
        self._filled[slot] = True
        if self._patches is not None:
            self._patches.put(slot, planes_HW)
            return
        for channel, plane in enumerate(planes_HW):
            if self._planes_TCHW is not None:
                self._planes_TCHW[slot, channel] = plane
            else:
                self._frames_THWC[slot, :, :, channel] = plane

    def put_part(self, slots: NDArray[np.int64], part: DecodedPart, payload: dict[str, NDArray[np.uint8]]) -> bool:
        """Frames that another decoder has put into a stack for a part; False where they haven't the size of these."""
        size = self.begin(part.source_height, part.source_width, part.rotation_deg)
        planes = payload.get("planes_TCHW")
        frames = payload["frames_THWC"] if planes is None else planes
        if size != (frames.shape[1:3] if planes is None else frames.shape[2:]):
            return False
        put = self.put if planes is None else self.put_planes
        for slot, frame in zip(slots[list(part.kept)], frames, strict=True):
            put(int(slot), frame)
        return True

    def finish(self) -> Stacked:
        """What was put; lost frames are left out, and patches that lack one become frames again."""
        kept = np.flatnonzero(self._filled)
        if self._planes_TCHW is not None:
            return Stacked({"planes_TCHW": self._planes_TCHW if self.complete else self._planes_TCHW[kept]}, kept, None)
        if self._patches is not None and self.complete:
            return Stacked({"patches": self._patches.finish()}, kept, self._patches.grid)
        frames_THWC = self._frames_THWC
        if self._patches is not None and self._rule is not None:
            frames_THWC = frames_of(self._patches.finish(), self._patches.grid, self._rule, len(self._filled))
        if not self.complete:
            for place, slot in enumerate(kept):
                frames_THWC[place] = frames_THWC[slot]
        return Stacked({"frames_THWC": frames_THWC[: len(kept)]}, kept, None)

    def _allocate(self, height: int, width: int) -> tuple[int, int]:
        slots, size, fits = len(self._filled), (height, width), False
        clip_frames = slots if self._clip_frames is None else self._clip_frames
        if self._resize is not None:
            target = target_size(self._resize, clip_frames, height, width, self.label)
            if target[0] <= height and target[1] <= width:
                size, fits = target, True
        self._limits.check_output(clip_frames, *size)
        if fits and self._rule is not None and self._stays_planes:
            self._planes_TCHW = np.empty((slots, 3, *size), np.uint8)
        elif fits and self._rule is not None:
            self._patches = PatchStack(self._rule, slots, *size)
        else:
            self._frames_THWC = np.empty((slots, *size, 3), np.uint8)
        return size
