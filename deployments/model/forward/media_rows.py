"""Encoder outputs put where a batch's placeholders stand, by the prompts' own counts of places.

Not by token id: an answer's token may spell a placeholder, and families mark pictures and videos by one id. Rows go
over the token embeddings. Families that add further rows inside their first layers (deepstack) take theirs through the
forward's own parameter, which does look for ids: there, whatever merely looks like a place is hidden from it.

Shape legend: N tokens of the batch, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from deployments.model.multimodal.request_media import EncodedRows, Media, joined_rows
from deployments.model.multimodal.uploads import Uploads
from deployments.types import MediaKind


@dataclass(slots=True)
class _Found:
    """What a batch needs of encoder outputs."""

    over: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """(places in the row, on the host; rows [n, D])."""
    inside: dict[MediaKind, list[EncodedRows]] = field(default_factory=dict)
    """Of families with deepstack."""
    known: list[torch.Tensor] = field(default_factory=list)
    """Every place of media."""


class MediaRows:
    """Belongs to the engine's thread."""

    def __init__(self, model: Any, placeholders: set[int], uploads: Uploads) -> None:
        self._embedding = model.get_input_embeddings()
        self._placeholders = torch.tensor(sorted(placeholders), dtype=torch.int64)
        self._uploads = uploads

    @contextmanager
    def placed(
        self, ids_N: torch.Tensor, spans: Sequence[tuple[int, Media, int, int]]
    ) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        """While open, a forward finds the rows. Yields the ids to give it, [N], and further arguments.

        `spans`: where in the row a request's tokens stand, its media, and which of its prompt's tokens these are.
        """
        found = _find(spans)
        arguments: dict[str, Any] = {}
        over = [(self._uploads.put(where), rows_ND) for where, rows_ND in found.over]
        if found.inside:
            outputs = {str(kind): joined_rows(pieces).output() for kind, pieces in found.inside.items()}
            arguments["mm_encoder_outputs"] = outputs
            strange = self._strange(ids_N, found.known)
            if len(strange):
                over.append((strange, self._embedding(ids_N[strange])))
                ids_N = ids_N.index_fill(0, strange, 0)
        if not over:
            yield ids_N, arguments
            return

        def put_over(module: Any, inputs: Any, embeddings_1ND: torch.Tensor) -> torch.Tensor:
            if embeddings_1ND.shape[:2] == (1, len(ids_N)):
                for where, rows_ND in over:
                    embeddings_1ND = embeddings_1ND.index_copy(1, where, rows_ND[None].to(embeddings_1ND.dtype))
            return embeddings_1ND

        hook = self._embedding.register_forward_hook(put_over)
        try:
            yield ids_N, arguments
        finally:
            hook.remove()

    def _strange(self, ids_N: torch.Tensor, known: list[torch.Tensor]) -> torch.Tensor:
        """Places of ids that look like placeholders and are none."""
        looks_N = torch.isin(ids_N, self._placeholders.to(ids_N.device))
        looks_N[self._uploads.put(torch.cat(known))] = False
        return looks_N.nonzero()[:, 0]


def _find(spans: Sequence[tuple[int, Media, int, int]]) -> _Found:
    found = _Found()
    for first, media, start, stop in spans:
        for kind, counts_T in media.counts_T.items():
            low, high = int(counts_T[start]), int(counts_T[stop])
            if low == high:
                continue
            where = first + counts_T[start : stop + 1].diff().nonzero()[:, 0]
            piece = media.rows(kind, low, high)
            found.known.append(where)
            if piece.deepstack_ND:
                found.inside.setdefault(kind, []).append(piece)
            else:
                found.over.append((where, piece.rows_ND))
    return found
