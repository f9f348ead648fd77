"""Rotary embeddings by a kernel: attentions keep their own forward, in which the known function's name means ours.

Where norms of the heads stand right before it, the kernel does these too.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from deployments.model.forward import statements
from deployments.model.forward.norms import is_norm
from deployments.model.forward.statements import begins, calls_of, computes
from deployments.model.forward.swapping import swap, with_names

_NAME, _VISION_NAME = "apply_rotary_pos_emb", "apply_rotary_pos_emb_vision"
_ARGUMENTS = "query_states, key_states, cos, sin"


def fuse_rotary(module: Any) -> bool:
    """Of a language model's attention, whose heads stand before its tokens; False for all else."""
    plain = _calls(module, _NAME, statements.ROTARY)
    if plain is None:
        return False
    norms: tuple[Any, ...] = ()
    if begins(plain, statements.NORMED_HEADS) and is_norm(module.q_norm) and is_norm(module.k_norm):
        norms = (module.q_norm, module.k_norm)
        module.q_norm, module.k_norm = nn.Identity(), nn.Identity()
    swap(module, with_names(plain, {_NAME: _rotary(plain.__globals__[_NAME], norms)}))
    return True


def fuse_vision_rotary(module: Any) -> bool:
    """Of a vision tower's attention, whose tokens stand before its heads; False for all else."""
    plain = _calls(module, _VISION_NAME, statements.VISION_ROTARY)
    if plain is None:
        return False
    swap(module, with_names(plain, {_VISION_NAME: _vision_rotary}))
    return True


def _calls(module: Any, name: str, known: str) -> Any:
    """The module's own forward where it calls the known function by `name`, once and as expected; else None."""
    plain = inspect.unwrap(type(module).forward)
    function = getattr(plain, "__globals__", {}).get(name)
    if function is None or name not in plain.__code__.co_names or not computes(function, known):
        return None
    half = inspect.unwrap(function).__globals__.get("rotate_half")
    if half is None or not computes(half, statements.ROTATE_HALF):
        return None
    return plain if calls_of(plain, (name,)) == ((name, _ARGUMENTS),) else None


def _rotary(turned: Callable[..., Any], norms: tuple[Any, ...]) -> Callable[..., Any]:
    """As `turned`, of normed heads where there are norms: by a kernel for one row of tokens."""
    from deployments.model.kernels import pointwise

    settings: Any = tuple((norm.weight, norm.variance_epsilon) for norm in norms) or None

    def rotary(query: torch.Tensor, keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        if len(query) == 1 and cos.dtype is query.dtype and cos.shape == (1, *query.shape[2:]):
            return pointwise.rotate(query, keys, cos, sin, settings)
        if norms:
            query, keys = norms[0](query), norms[1](keys)
        return turned(query, keys, cos, sin)

    return rotary


def _vision_rotary(
    query_NHD: torch.Tensor, keys_NHD: torch.Tensor, cos_ND: torch.Tensor, sin_ND: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    from deployments.model.kernels import pointwise

    query, keys = query_NHD.transpose(0, 1)[None], keys_NHD.transpose(0, 1)[None]
    query, keys = pointwise.rotate(query, keys, cos_ND[None], sin_ND[None], rounds=False)
    return query[0].transpose(0, 1), keys[0].transpose(0, 1)
