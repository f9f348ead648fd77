"""Vision towers read patches by a convolution whose kernel is a whole patch: a matrix product, done as one here.

Convolution libraries do not see that and take several times as long.
"""

from typing import Any

import torch
from torch.nn import functional


class PatchConv3d(torch.nn.Conv3d):
    """As its parent; of patches [N, C, T, H, W] as large as the kernel it makes [N, D, 1, 1, 1] by a matrix product."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        if patches.shape[2:] != self.kernel_size:
            return super().forward(patches)
        return functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def speed_up_patches(model: Any) -> None:
    """Let the model's own patch convolutions compute as `PatchConv3d`; what they give is equal to rounding."""
    for module in model.modules():
        if type(module) is torch.nn.Conv3d and _reads_each_value_once(module):
            module.__class__ = PatchConv3d


def _reads_each_value_once(conv: torch.nn.Conv3d) -> bool:
    plain = conv.groups == 1 and set(conv.dilation) == {1} and conv.padding in ((0, 0, 0), "valid")
    return plain and tuple(conv.stride) == tuple(conv.kernel_size)
