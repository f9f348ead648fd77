"""A loaded model made faster before it is served, held against itself as it came."""

from typing import Any

import torch

from deployments.model.families.family import Family
from deployments.model.families.patch_conv import speed_up_patches
from deployments.model.forward.fused import fuse
from deployments.model.forward.self_check import check_close
from deployments.model.forward.towers import speed_up_towers

_TOKENS = 24


@torch.inference_mode()
def speed_up(family: Family) -> None:
    """Swap modules and the towers' attention. Raises `InternalError` when the model's logits are others then."""
    model = family.model
    speed_up_patches(model)
    speed_up_towers(model)
    before = _logits(family)
    fuse(model, kernels=model.device.type == "cuda")
    check_close(family.name, model.dtype, _logits(family), before)


def _logits(family: Family) -> torch.Tensor:
    """Of a plain forward over random text, [T, V]."""
    model = family.model
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, min(family.vocab_size, 100), (1, _TOKENS), generator=generator)
    positions = family.with_axes(torch.arange(_TOKENS, device=model.device)[None])
    logits: Any = model(input_ids=ids.to(model.device), position_ids=positions, use_cache=False).logits[0]
    return logits.clone()  # type: ignore[no-any-return]
