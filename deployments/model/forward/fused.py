"""transformers' own modules, computing the same in fewer kernels: their classes are swapped once the weights are there.

A module is taken by what its forward's statements compute (`statements`), never by its name; all others stay as they
are, so do layers of quantised checkpoints. Norms, rotary embeddings and gates have kernels of their own on a card;
merged projections serve a CPU as well. Norms and gates of float64 models stay transformers' own.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from deployments.model.forward.gated_mlp import fuse_gated_mlp
from deployments.model.forward.merged import merge_projections
from deployments.model.forward.norms import fuse_layer, fuse_norm
from deployments.model.forward.rotary import fuse_rotary, fuse_vision_rotary
from deployments.model.forward.statements import calls_of

_QKV = ("q_proj", "k_proj", "v_proj")

logger = logging.getLogger(__name__)


def fuse(model: Any, *, kernels: bool) -> Counter[str]:
    """Swap what can be swapped, with `kernels` also what takes one of our own; how many modules by kind."""
    done: Counter[str] = Counter()
    kernels = kernels and model.dtype is not torch.float64
    # Norms last: an attention that takes over its heads' norms must see them as they were.
    kinds: list[tuple[str, Callable[[Any], bool]]] = [
        ("projections", _merge_qkv),
        ("gated activations", lambda module: fuse_gated_mlp(module, kernels=kernels)),
    ]
    if kernels:
        kinds += [
            ("rotary embeddings", fuse_rotary),
            ("rotary embeddings of towers", fuse_vision_rotary),
            ("layers", fuse_layer),
            ("norms", fuse_norm),
        ]
    for kind, fused in kinds:
        done[kind] = sum(fused(module) for module in list(model.modules()))
    logger.info("fused %s", ", ".join(f"{count} {kind}" for kind, count in done.items()))
    return done


def _merge_qkv(module: Any) -> bool:
    """Query, key and value projections, where the forward gives them one input, in this order, in every call."""
    if not all(isinstance(getattr(module, name, None), nn.Linear) for name in _QKV):
        return False
    calls = calls_of(type(module).forward, _QKV)
    if tuple(name for name, _ in calls) != _QKV or len({given for _, given in calls}) != 1:
        return False
    return not getattr(module, "is_kv_shared_layer", False) and merge_projections(module, _QKV)
