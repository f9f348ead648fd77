"""Whose content an engine's item is: the request's media, as the preprocessor named them, and the items made of them.

A name spares reading a clip's pixels (63 MB for 10,000 tokens) only to find out that they are known. Where items and
media can't be told to be the same, items stay without a name and are known by their bytes.
"""

from collections.abc import Mapping, Sequence

import torch

from deployments.model.multimodal.items import Item
from deployments.types import MediaMark


def name_items(items: Sequence[Item], marks: Sequence[MediaMark], frames: Sequence[int] = ()) -> None:
    """`items` and `marks`: of one request and modality, both in the prompt's order. `frames`: how many each clip has,
    where its frames are items of their own."""
    for item in items:
        item.labels = tuple(mark.label for mark in marks)
    if len(items) == len(marks):
        for item, mark in zip(items, marks, strict=True):
            item.name, item.labels = mark.digest, (mark.label,)
    elif len(frames) == len(marks) and sum(frames) == len(items):
        owners = [(mark, number) for mark, count in zip(marks, frames, strict=True) for number in range(count)]
        for item, (mark, number) in zip(items, owners, strict=True):
            item.name, item.labels = mark.digest and f"{mark.digest} {number}", (mark.label,)
    elif len(items) == 1 and all(mark.digest for mark in marks):
        items[0].name = " ".join(mark.digest for mark in marks)


def frames_of_clips(tensors: Mapping[str, torch.Tensor]) -> list[int]:
    """How many frames each clip has, where the processor's tensors tell."""
    for name, tensor in tensors.items():
        if name.endswith("_grid_thw"):
            return [int(frames) for frames in tensor[:, 0]]
        if name == "num_frames_per_video":
            return [int(frames) for frames in tensor]
    return []
