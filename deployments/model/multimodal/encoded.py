"""Encoder outputs on their way from where media were encoded to where prompts are read: as arrays, by name.

Of each kind `{kind}_embeds` [N, D], `{kind}_embeds_rows` (how many rows each item has) and, where the family has such,
`{kind}_deepstack_embeds` [L, N, D]: as clients bring their own. numpy knows no bfloat16: its bits travel as uint16.

Shape legend: N placeholder tokens of one modality in a prompt, D hidden size, L layers of deepstack.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.model.multimodal.request_media import EncodedRows
from deployments.types import MediaKind

Arrays = dict[str, NDArray[Any]]


def arrays_of(outputs: Mapping[MediaKind, Sequence[EncodedRows]]) -> Arrays:
    """The outputs of a request's items, each kind's in the prompt's order, on the host."""
    arrays: Arrays = {}
    for kind, items in outputs.items():
        arrays[f"{kind}_embeds"] = _array(torch.cat([rows.rows_ND for rows in items]))
        arrays[f"{kind}_embeds_rows"] = np.array([len(rows.rows_ND) for rows in items], np.int64)
        if items[0].deepstack_ND:
            layers = [torch.cat(layer) for layer in zip(*(rows.deepstack_ND for rows in items), strict=True)]
            arrays[f"{kind}_deepstack_embeds"] = _array(torch.stack(layers))
    return arrays


def tensor_of(array: torch.Tensor) -> torch.Tensor:
    """What `arrays_of` made an array of, with its own type."""
    return array.view(torch.bfloat16) if array.dtype is torch.uint16 else array


def add_outputs(tensors: Arrays, pieces: Sequence[Arrays]) -> None:
    """Move the outputs of a request's clips, which were encoded apart, among its `tensors`, in their order. A lone
    piece is not copied. The dicts of `pieces` end up empty, so that they hold no memory."""
    for name in list(pieces[0]):
        arrays = [piece.pop(name) for piece in pieces]
        axis = 1 if name.endswith("_deepstack_embeds") else 0
        tensors[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=axis)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.cpu()
    array: NDArray[Any] = (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array
