"""RMS norms by a kernel, and decoder layers whose sum after the attention is part of the norm behind it."""

from typing import Any

import torch

from deployments.model.forward import statements
from deployments.model.forward.gated_mlp import GatedMLP
from deployments.model.forward.statements import computes
from deployments.model.forward.swapping import swap


def is_norm(module: Any) -> bool:
    """Whether a module is an RMS norm that a kernel computes."""
    return computes(type(module).forward, statements.RMS_NORM) and module.weight.dtype is not torch.float64


def fuse_norm(module: Any) -> bool:
    """Compute a known norm by a kernel; False for all else."""
    if not is_norm(module):
        return False
    swap(module, _norm)
    return True


def _norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    from deployments.model.kernels import pointwise

    return pointwise.rms_norm(hidden_states, self.weight, self.variance_epsilon)


def fuse_layer(module: Any) -> bool:
    """A decoder layer: the sum after its attention and the norm behind that are one kernel."""
    if not computes(type(module).forward, statements.LAYER) or not is_norm(module.post_attention_layernorm):
        return False
    swap(module, _layer)
    return True


def _layer(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: Any = None,
    attention_mask: Any = None,
    position_ids: Any = None,
    cache: Any = None,
    use_cache: bool | None = False,
    **kwargs: Any,
) -> torch.Tensor:
    from deployments.model.kernels import pointwise

    attended, _ = self.self_attn(
        hidden_states=self.input_layernorm(hidden_states),
        attention_mask=attention_mask,
        position_ids=position_ids,
        cache=cache,
        use_cache=use_cache,
        position_embeddings=position_embeddings,
        **kwargs,
    )
    norm = self.post_attention_layernorm
    residual, normed = pointwise.add_rms_norm(attended, hidden_states, norm.weight, norm.variance_epsilon)
    if isinstance(self.mlp, GatedMLP):
        return self.mlp.add_to(residual, normed)
    whole: torch.Tensor = residual + self.mlp(normed)
    return whole
