"""Chunks of prompts and a decode step in one forward pass: what a pass costs whatever its size is paid once.

Possible where every layer keeps every position; the families' layers see one row of tokens (`joint_attention`).

Shape legend: A rotary axes, C chunks, Q tokens of a chunk, R rows of a decode step, N tokens in all, V vocabulary.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from deployments.model.families.family import Family
from deployments.model.forward.decode_step import Row, step_inputs, step_width
from deployments.model.kv_cache.cache import SlotCache
from deployments.model.kv_cache.spans import DecodeSpan, JointSpan, PrefillSpan
from deployments.model.multimodal.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one prompt."""

    span: PrefillSpan
    ids_Q: torch.Tensor
    """int64, on the device."""
    positions_AQ: torch.Tensor | None
    """Rotary positions, on the device; None where they are those of the cache."""


class JointPass:
    """Belongs to the engine's thread."""

    def __init__(self, family: Family, cache: SlotCache, uploads: Uploads) -> None:
        self._family = family
        self._cache = cache
        self._uploads = uploads
        self._keeps = "logits_to_keep" in inspect.signature(family.model.forward).parameters
        self._head = family.model.get_output_embeddings()

    def run(self, chunks: list[Chunk], rows: list[Row], arguments: dict[str, Any]) -> torch.Tensor:
        """Logits [C + R, V] of each chunk's last token and of the cache's first R slots, meaningless where one idles.

        `rows` may be empty, `chunks` not. `arguments`: what else the forward is to know.
        """
        ids, places = [chunk.ids_Q for chunk in chunks], [self._positions(chunk) for chunk in chunks]
        step = None
        if rows:
            columns, step_places = (self._uploads.put(tensor) for tensor in step_inputs(rows, self._family.num_axes))
            ids.append(columns[:, 0])
            places.append(step_places)
            width = step_width(rows, self._cache.max_length)
            step = DecodeSpan(columns[:, 1], width, columns[:, 2].bool(), all(row.active for row in rows))
        span = self._span(chunks, step)
        self._cache.at(span)
        positions = torch.cat(places, dim=1)[:, None]
        with self._logits_of(self._uploads.put(_kept(span, len(rows)))) as kept:
            result = self._family.model(
                input_ids=torch.cat(ids)[None],
                # Ready masks are taken as they are: this one is never looked at, each piece has its own.
                attention_mask=self._family.mask({"full_attention": positions.new_zeros((1, 1, 1, 1))}),
                position_ids=positions if self._family.num_axes > 1 else positions[0],
                past_key_values=self._cache,
                use_cache=True,
                joint_span=span,
                **kept,
                **arguments,
            )
        self._cache.done()
        logits: torch.Tensor = result.logits[0].float()
        return logits

    @contextmanager
    def _logits_of(self, places: torch.Tensor) -> Iterator[dict[str, Any]]:
        """While open, the forward computes logits at these places of the row alone, given the arguments yielded."""
        if self._keeps:
            yield {"logits_to_keep": places}
            return
        hook = self._head.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, places],))
        try:
            yield {}
        finally:
            hook.remove()

    def _positions(self, chunk: Chunk) -> torch.Tensor:
        if chunk.positions_AQ is not None:
            return chunk.positions_AQ
        span = chunk.span
        places_Q = torch.arange(span.start, span.start + span.length, device=chunk.ids_Q.device)
        return places_Q.expand(self._family.num_axes, -1)

    def _span(self, chunks: list[Chunk], step: DecodeSpan | None) -> JointSpan:
        dtype = self._family.model.dtype
        spans = tuple(chunk.span for chunk in chunks)
        masks = tuple(_chunk_mask(chunk.span, dtype, chunk.ids_Q.device) for chunk in chunks)
        step_mask = None if step is None else self._cache.decode_masks(step, dtype)["full_attention"]
        return JointSpan(spans, masks, step, step_mask)


def _kept(span: JointSpan, rows: int) -> torch.Tensor:
    """Whose logits are wanted: places in the row of tokens, on the host."""
    lasts = [place.stop - 1 for _, _, place in span.pieces]
    return torch.tensor([*lasts, *range(span.num_prompt, span.num_prompt + rows)])


def _chunk_mask(span: PrefillSpan, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    if span.start == 0 or span.length == 1:
        return None
    mask = torch.full((span.length, span.start + span.length), torch.finfo(dtype).min, dtype=dtype, device=device)
    return mask.triu_(span.start + 1)[None, None]
