"""Frames as the rows of a vision transformer's tensor, and back: the same bytes in another order.

Writing a frame to its place in that order costs no more than copying it, where a transposition of all frames afterwards
walks through all of them twice.

Legend: T frames, H height, W width, C channels (RGB); t, h, w count patches; a row is one patch in space and time.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from deployments.types import PatchRule

CHANNELS = 3


class PatchStack:
    """Room for the patches of `frames` frames of `height` x `width`, both multiples of `rule.patch * rule.merge`."""

    def __init__(
        self, rule: PatchRule, frames: int, height: int, width: int, rows: NDArray[np.uint8] | None = None
    ) -> None:
        """`rows`: where to put them, contiguous (rows, values of a row); None for a new array."""
        self._rule = rule
        self._frames = frames
        self.grid = (-(-frames // rule.temporal), height // rule.patch, width // rule.patch)
        """(t, h, w)"""
        times, high, wide = self.grid
        blocks = (times, high // rule.merge, wide // rule.merge, rule.merge, rule.merge)
        shape = (*blocks, CHANNELS, rule.temporal, rule.patch, rule.patch)
        self._patches = np.empty(shape, np.uint8) if rows is None else rows.reshape(shape)

    def put(self, number: int, planes_HW: Iterable[NDArray[np.uint8]]) -> None:
        """Frame `number` as its red, green and blue planes."""
        rule, (_, high, wide) = self._rule, self.grid
        # A row of a patch is moved as one value of so many bytes: several times as fast as byte for byte.
        stroke = np.dtype((np.void, rule.patch))
        place = self._patches.view(stroke)[number // rule.temporal, ..., number % rule.temporal, :, 0]
        for channel, plane in enumerate(planes_HW):
            strokes = np.ascontiguousarray(plane).view(stroke)
            blocks = strokes.reshape(high // rule.merge, rule.merge, rule.patch, wide // rule.merge, rule.merge)
            place[:, :, :, :, channel] = blocks.transpose(0, 3, 1, 4, 2)

    def finish(self) -> NDArray[np.uint8]:
        """(rows, values of a row). The last frame stands for those that are missing to fill the last rows."""
        for missing in range(self._frames, self.grid[0] * self._rule.temporal):
            last = (self._frames - 1) % self._rule.temporal
            self._patches[-1, ..., missing % self._rule.temporal, :, :] = self._patches[-1, ..., last, :, :]
        return self._patches.reshape(int(np.prod(self.grid)), -1)


def frames_of(
    patches: NDArray[np.uint8], grid: tuple[int, int, int], rule: PatchRule, frames: int
) -> NDArray[np.uint8]:
    """The first `frames` frames of what `PatchStack.finish` gave: (T, H, W, C), contiguous."""
    times, high, wide = grid
    blocks = (times, high // rule.merge, wide // rule.merge, rule.merge, rule.merge)
    nine = patches.reshape(*blocks, CHANNELS, rule.temporal, rule.patch, rule.patch)
    whole = nine.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5).reshape(-1, high * rule.patch, wide * rule.patch, CHANNELS)
    return np.ascontiguousarray(whole[:frames])
