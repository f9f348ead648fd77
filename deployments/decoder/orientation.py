"""How the frames of a file must be turned, and mirrored, to be seen as players show them."""

import math
from dataclasses import dataclass

import numpy as np
from av import VideoFrame
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Orientation:
    """First mirrored from left to right, then turned by `turns` times 90 degrees counterclockwise."""

    turns: int
    mirrored: bool

    @classmethod
    def of(cls, frame: VideoFrame) -> "Orientation":
        """By the frame's display matrix, which takes (x, y) to (a x + c y, b x + d y); upright without one."""
        try:
            matrix = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # PyAV, of side data that it doesn't know beside it
            return cls(round(frame.rotation / 90) % 4, False)
        if matrix is None:
            return cls(0, False)
        a, b, _, c, d = (int(number) for number in np.frombuffer(bytes(matrix), np.int32)[:5])
        mirrored = a * d - b * c < 0
        sign = -1 if mirrored else 1
        return cls(round(-math.atan2(sign * b, sign * a) / (math.pi / 2)) % 4, mirrored)

    @property
    def sideways(self) -> bool:
        return self.turns % 2 == 1

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`pixels`: (H, W) or (H, W, C); a view of them comes out."""
        mirrored = pixels[:, ::-1] if self.mirrored else pixels
        return np.rot90(mirrored, self.turns) if self.turns else mirrored
