"""Pictures as the rows of the model's tensor, made where they are decoded.

Where a family's image processor does nothing but resize, and put what comes of it into another order, that is done
here, by the same resize, with none of its copies; `picture_trial` finds out where.

Shape legend: H height, W width, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from deployments.media.patches import CHANNELS, PatchStack
from deployments.types import PatchRule

Picture = NDArray[np.uint8] | torch.Tensor
"""uint8 RGB (H, W, C); a tensor where it has the size of the model's rows."""


@dataclass(frozen=True, slots=True)
class PictureCutter:
    """Makes the rows of one checkpoint's pictures."""

    rule: PatchRule
    mode: InterpolationMode

    def resized(self, picture_HWC: NDArray[np.uint8], height: int, width: int) -> torch.Tensor:
        """(H, W, C), a view of three planes, at this size."""
        picture_CHW = torch.from_numpy(picture_HWC).permute(2, 0, 1)
        resized_CHW: torch.Tensor = resize(picture_CHW, [height, width], self.mode, antialias=True)
        return resized_CHW.permute(1, 2, 0)

    def rows(self, pictures_HWC: Sequence[Picture]) -> NDArray[np.uint8]:
        """(rows, values of a row) of pictures that were resized, one after the other."""
        rule = self.rule
        counts = [picture.shape[0] * picture.shape[1] // rule.patch**2 for picture in pictures_HWC]
        rows = np.empty((sum(counts), CHANNELS * rule.temporal * rule.patch**2), np.uint8)
        for picture_HWC, count, end in zip(pictures_HWC, counts, np.cumsum(counts), strict=True):
            height, width = picture_HWC.shape[:2]
            stack = PatchStack(rule, 1, height, width, rows[end - count : end])
            stack.put(0, np.moveaxis(np.asarray(picture_HWC), -1, 0))
            stack.finish()
        return rows


def blank_pictures(pictures_HWC: Sequence[Picture]) -> list[Picture]:
    """Others of their sizes, without content: what is computed of them is arithmetic on shapes, and costs nothing."""
    return [torch.empty(tuple(picture.shape), dtype=torch.uint8, device="meta") for picture in pictures_HWC]
