"""A request's processor tensors as items to encode, named as far as anybody told who they are."""

from collections.abc import Mapping, Sequence

import torch

from deployments.model.families.family import Family
from deployments.model.multimodal.item_names import frames_of_clips, name_items
from deployments.model.multimodal.items import Item, given_items, split_items
from deployments.types import MediaKind, MediaMark, PixelNorm


def items_of(
    family: Family,
    kind: MediaKind,
    tensors: Mapping[str, torch.Tensor],
    *,
    norm: PixelNorm | None,
    media: Sequence[MediaMark],
    salt: str,
) -> list[Item]:
    """Of one modality, in the prompt's order. `media`: all of the request's; `salt`: see `Prepared.cache_salt`."""
    feature = family.features[kind]
    arguments = {name: tensors[name] for name in feature.argument_names if name in tensors}
    if f"{kind}_embeds" in tensors:
        items = given_items(kind, tensors)
    else:
        pixels = None if kind is MediaKind.AUDIO else feature.main_tensor
        items = split_items(kind, arguments, pixels, norm, by_frame=family.frames_apart)
    marks = [mark for mark in media if mark.kind is kind]
    name_items(items, marks, frames_of_clips(arguments) if family.frames_apart else ())
    for item in items:
        item.main, item.salt = feature.main_tensor, salt
        item.labels = item.labels or tuple(mark.label for mark in media)
    return items
