"""A request's turn begins: its tensors become items to encode, its prompt gets positions and counts of places."""

import itertools

import torch

from deployments.model.families.family import Family
from deployments.model.forward.request_items import items_of
from deployments.model.kv_cache.prefix_cache import Content, content_of
from deployments.model.multimodal.arrivals import Arrivals
from deployments.model.multimodal.items import Item, rows_of_items
from deployments.model.multimodal.request_media import Media
from deployments.model.sequence import Sequence
from deployments.types import MediaKind


@torch.inference_mode()
def unpack(family: Family, sequence: Sequence, media: Media) -> None:
    """Find a prompt's positions, and turn the processor's tensors into items. Everything stays on the host.

    Raises `BadRequest` for modalities that the model does not take.
    """
    request, ids_T = sequence.request, sequence.prompt_T
    tensors = {name: torch.from_numpy(array) for name, array in media.tensors.items()}
    kinds = family.kinds_in(tensors)
    if kinds:
        media.blocks = family.blocks(family.token_types_T(ids_T, tensors))
    if media.blocks:
        media.blocks_T = torch.full_like(ids_T, -1)
        for number, (first, stop) in enumerate(media.blocks):
            media.blocks_T[first:stop] = number
    positions = family.positions(ids_T, tensors, request.use_audio_in_video)
    if positions is not None:
        # An answer goes on from its prompt's last position, as transformers' `generate` does.
        sequence.position_offsets = tuple((positions[:, -1] + 1 - sequence.num_prompt).tolist())
        sequence.positions = positions
    for kind in kinds:
        places_T = family.placeholders_T(ids_T, kind)
        media.counts_T[kind] = torch.nn.functional.pad(places_T.cumsum(0), (1, 0))
        norm, salt = request.pixel_norm, request.cache_salt
        items = items_of(family, kind, tensors, norm=norm, media=request.media, salt=salt)
        main = family.features[kind].main_tensor
        if media.arrivals is not None and media.tensors.get(main) is media.arrivals.array:
            _await_rows(items, main, media.arrivals)
        for item in items:
            item.absent = request.clips_absent and kind is MediaKind.VIDEO
        media.item_rows[kind] = rows_of_items(items, places_T)
        media.items += items
    media.tensors.clear()


def _await_rows(items: list[Item], name: str, arrivals: Arrivals) -> None:
    """Make items wait for their rows of the tensor `name`."""
    rows = itertools.accumulate(len(item.tensors[name]) for item in items)
    for item, until in zip(items, rows, strict=True):
        item.arrivals, item.until = arrivals, until


def prompt_content(family: Family, sequence: Sequence, media: Media) -> Content:
    """What a started request's prompt is, token by token; its items' digests are made, or waited for."""
    marks: list[tuple[torch.Tensor, bytes]] = []
    for kind, counts_T in media.counts_T.items():
        places = counts_T.diff().nonzero()[:, 0]
        digests = [item.key.result() for item in media.items if item.kind is kind and item.key is not None]
        rows = media.item_rows[kind]
        if rows is None:  # nobody knows whose a place is: all together
            rows, digests = [len(places)], [b"".join(digests)]
        marks += zip(torch.split(places, rows), digests, strict=True)
    positions = sequence.positions
    if positions is None and family.num_axes > 1:  # as beside media: beginnings without any are alike
        positions = torch.arange(sequence.num_prompt).expand(family.num_axes, -1)
    return content_of(sequence.prompt_T, positions, marks)


def answer_content(sequence: Sequence, token_ids: list[int], width: int) -> Content:
    """The same of an answer's first tokens, in rows of `width` columns as its prompt's are."""
    ids_T = torch.tensor(token_ids, dtype=torch.int64)
    places_T = torch.arange(sequence.num_prompt, sequence.num_prompt + len(token_ids))
    axes = width - content_of(ids_T, None, []).shape[1]
    offsets_A1 = torch.tensor(sequence.position_offsets[:axes])[:, None]
    return content_of(ids_T, places_T[None] + offsets_A1 if axes else None, [])
