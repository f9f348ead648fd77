"""Encoder outputs in the place of what they were made of: among a request's tensors, row for place in its prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.errors import BadRequest
from deployments.preprocessor.embeds import Embeds
from deployments.preprocessor.hf_processor import Expanded
from deployments.types import MediaInput, MediaKind

_MADE_OF_PIXELS = {
    MediaKind.IMAGE: ("pixel_values", "pixel_attention_mask", "pixel_position_ids"),
    MediaKind.VIDEO: ("pixel_values_videos", "pixel_attention_mask_videos", "pixel_position_ids_videos"),
    MediaKind.AUDIO: ("input_features",),
}
"""Tensors that only the towers look at."""


def with_embeds(
    expanded: Expanded,
    embeds: Mapping[MediaKind, Sequence[Embeds]],
    inputs: Sequence[MediaInput],
    tokens: Mapping[MediaKind, frozenset[str]],
) -> dict[str, NDArray[Any]]:
    """The processor's tensors with `embeds` among them: by kind `{kind}_embeds` [N, D], how many rows each item has,
    and `{kind}_deepstack_embeds` [L, N, D]. Raises `BadRequest` naming the item that has more or fewer than places.

    `tokens`: those by which the processor writes each kind.
    """
    tensors = dict(expanded.tensors)
    for kind, given in embeds.items():
        items = [item for item in inputs if item.kind is kind]
        written = [said["replacement"] for said in expanded.replacements if said["type"] == kind]
        for item, one, text in zip(items, given, written, strict=True):
            _check(item, len(one.rows_ND), _places(text, tokens[kind] | tokens[MediaKind.IMAGE]))
        for name in _MADE_OF_PIXELS[kind]:
            tensors.pop(name, None)
        tensors[f"{kind}_embeds"] = np.concatenate([one.rows_ND for one in given])
        tensors[f"{kind}_embeds_rows"] = np.array([len(one.rows_ND) for one in given], np.int64)
        layers = [one.deepstack_LND for one in given if one.deepstack_LND is not None]
        if layers:
            tensors[f"{kind}_deepstack_embeds"] = np.concatenate(layers, axis=1)
    return tensors


def _places(text: str, tokens: frozenset[str]) -> int:
    """How many rows a processor's text for one item takes: of the tokens that it is written in, brackets are few."""
    return max((text.count(token) for token in tokens), default=0)


def _check(item: MediaInput, rows: int, expected: int) -> None:
    if rows != expected:
        said = f"{item.label}: there are {rows} rows of embeddings; an item of this size has {expected} in the prompt"
        raise BadRequest(said, param=item.label)
