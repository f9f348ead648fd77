"""Encoder outputs put where a batch's placeholders stand, by the prompts' own counts of places.

Not by token id: an answer's token may spell a placeholder, and families mark pictures and videos by one id. Rows go
over the token embeddings. Families that add further rows inside their first layers (deepstack) take theirs through the
forward's own parameter, which does look for ids: there, whatever merely looks like a place is hidden from it.

Shape legend: N tokens of the batch, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from deployments.model.forward.batch import Chunk
from deployments.model.multimodal.request_media import EncodedRows, Media, joined_rows
from deployments.model.multimodal.uploads import Uploads
from deployments.types import MediaKind


@dataclass(frozen=True, slots=True)
class PlacedRows:
    """Encoder outputs of one modality for places of the row."""

    kind: MediaKind
    places_N: torch.Tensor
    """int64, on the host."""
    rows: EncodedRows


class MediaRows:
    """Belongs to the engine's thread."""

    def __init__(self, model: Any, placeholders: set[int], uploads: Uploads) -> None:
        self._embedding = model.get_input_embeddings()
        self._placeholders = torch.tensor(sorted(placeholders), dtype=torch.int64)
        self._uploads = uploads

    @contextmanager
    def placed(self, ids_N: torch.Tensor, found: Sequence[PlacedRows]) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        """While open, a forward finds the rows. Yields the ids to give it, [N], and further arguments."""
        arguments: dict[str, Any] = {}
        inside: dict[MediaKind, list[EncodedRows]] = {}
        over = []
        for one in found:
            if one.rows.deepstack_ND:
                inside.setdefault(one.kind, []).append(one.rows)
            else:
                over.append((self._uploads.put(one.places_N), one.rows.rows_ND))
        if inside:
            outputs = {str(kind): joined_rows(pieces).output() for kind, pieces in inside.items()}
            arguments["mm_encoder_outputs"] = outputs
            strange = self._strange(ids_N, [one.places_N for one in found])
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


def find_rows(num_rows: int, chunks: Sequence[tuple[Chunk, Media | None]]) -> list[PlacedRows]:
    """What chunks need of their requests' encoder outputs, in a batch in which they follow `num_rows` tokens."""
    found, first = [], num_rows
    for chunk, media in chunks:
        stop = chunk.start + len(chunk.ids_Q)
        if media is not None:
            for kind, counts_T in media.counts_T.items():
                low, high = int(counts_T[chunk.start]), int(counts_T[stop])
                if low < high:
                    places = first + counts_T[chunk.start : stop + 1].diff().nonzero()[:, 0]
                    found.append(PlacedRows(kind, places, media.rows(kind, low, high)))
        first += len(chunk.ids_Q)
    return found
