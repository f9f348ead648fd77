"""Linear layers of one input as one matrix product: a step of few rows then reads its weights in fewer, larger pieces.

Only plain `torch.nn.Linear` layers: those of a quantised checkpoint are left alone, which may be of that class, with
packed weights or a forward of their own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class MergedLinear(nn.Module):
    """Takes the place of the first of several layers: computes all, hands out the first part and keeps the others."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.sizes = [linear.out_features for linear in linears]
        self.weight = _joined([linear.weight for linear in linears])
        biases = [linear.bias for linear in linears if linear.bias is not None]
        self.bias = _joined([_bias(linear) for linear in linears]) if biases else None
        self._kept: list[torch.Tensor] = []

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """All parts, next to each other."""
        return functional.linear(x, self.weight, self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *self._kept = torch.split(self.whole(x), self.sizes, dim=-1)
        return first

    def take(self) -> torch.Tensor:
        """The next part of the last product; each is handed out once, so that a second reader fails loudly."""
        return self._kept.pop(0)


class KeptPart(nn.Module):
    """Takes the place of a later layer, of the same input: hands out what the first one kept of it."""

    def __init__(self, merged: MergedLinear) -> None:
        super().__init__()
        self._merged = [merged]  # not a submodule: its weight is counted once

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._merged[0].take()


def is_plain(linear: Any) -> bool:
    """Whether this is a layer of torch's own that computes what its class says, with a weight that is what it seems."""
    if type(linear) is not nn.Linear or "forward" in vars(linear):
        return False
    return type(linear.weight.data) is torch.Tensor and not (linear._forward_hooks or linear._forward_pre_hooks)


def mergeable(linears: Sequence[Any]) -> bool:
    """Whether these are plain layers of one input width and one type."""
    if not all(map(is_plain, linears)):
        return False
    return len({(linear.in_features, linear.weight.dtype, linear.weight.device) for linear in linears}) == 1


def merge_projections(module: nn.Module, names: Sequence[str]) -> bool:
    """Merge layers of a module that are called in this order with one input; False where they are not plain ones."""
    linears = [getattr(module, name, None) for name in names]
    if not mergeable(linears):
        return False
    merged = MergedLinear([linear for linear in linears if linear is not None])
    for number, name in enumerate(names):
        setattr(module, name, KeptPart(merged) if number else merged)
    return True


def _bias(linear: nn.Linear) -> torch.Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


def _joined(tensors: Sequence[torch.Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.cat([tensor.detach() for tensor in tensors]), requires_grad=False)
