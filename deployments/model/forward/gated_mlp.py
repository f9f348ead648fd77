"""Gated MLPs with their two projections merged; on a card the gate is one kernel.

Shape legend: F width of the gate.
"""

from typing import Any

import torch
from torch import nn

from deployments.model.forward import statements
from deployments.model.forward.merged import MergedLinear, is_plain, mergeable
from deployments.model.forward.statements import computes


class GatedMLP(nn.Module):
    """`activation(gate) * up`, projected down; `gate_up` gives both next to each other."""

    def __init__(self, gate_up: nn.Module, down: nn.Module, activation: nn.Module, *, kernel: bool) -> None:
        super().__init__()
        self.gate_up, self.down, self.activation = gate_up, down, activation
        self._kernel = kernel

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        down: torch.Tensor = self.down(self._gated(hidden_states))
        return down

    def add_to(self, residual: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """`residual` with the output added in place, where that is a part of the last product."""
        down = self.down
        if not is_plain(down) or down.bias is not None or len(residual) != 1:
            return torch.add(residual, self(hidden_states))
        residual[0].addmm_(self._gated(hidden_states)[0], down.weight.t())
        return residual

    def _gated(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate_up = self.gate_up
        both = gate_up.whole(hidden_states) if isinstance(gate_up, MergedLinear) else gate_up(hidden_states)
        if self._kernel:
            from deployments.model.kernels import pointwise

            return pointwise.silu_and_multiply(both)
        gate, up = both.chunk(2, dim=-1)
        gated: torch.Tensor = self.activation(gate) * up
        return gated


def fuse_gated_mlp(module: Any, *, kernels: bool) -> bool:
    """Put a fused one in the place of each known gated MLP right below `module`; whether there was one."""
    done = False
    for name, child in list(module.named_children()):
        fused = _fused(child, kernels=kernels)
        if fused is not None:
            setattr(module, name, fused)
            done = True
    return done


def _fused(module: Any, *, kernels: bool) -> nn.Module | None:
    forward = type(module).forward
    if computes(forward, *statements.GATED_MLPS):
        pair, activation = [module.gate_proj, module.up_proj], module.act_fn
        if not mergeable(pair):
            return None
        gate_up: nn.Module = MergedLinear(pair)
    elif computes(forward, statements.MERGED_MLP):
        gate_up, activation = module.gate_up_proj, module.activation_fn
    else:
        return None
    return GatedMLP(gate_up, module.down_proj, activation, kernel=kernels and _is_silu(activation))


def _is_silu(activation: Any) -> bool:
    return isinstance(activation, nn.SiLU) or type(activation).__name__ == "SiLUActivation"
