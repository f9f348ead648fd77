"""Forward passes: encode a request's media, prefill a chunk, decode a step. Knows the model and its cache, no policy.

Shape legend: T prompt tokens, Q tokens of a chunk, R rows of a decode step, V vocabulary, N placeholders, D width.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from deployments.errors import BadRequest
from deployments.model.encoder import Encoder, Item, split_items
from deployments.model.family import Family
from deployments.model.kv_cache import SlotCache
from deployments.model.multimodal import EncodedRows, Media, joined_rows
from deployments.model.pixels import normalised
from deployments.model.sequence import Sequence
from deployments.model.spans import DecodeSpan, PrefillSpan
from deployments.types import MediaKind

# Payloads are views of shared memory, hence read-only; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

WIDTH_STEP = 64
"""Decode steps look at a multiple of so many positions, so that their shapes repeat."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a decode step knows of one slot."""

    token_id: int
    """The newest token; its key and value are not in the cache yet."""
    length: int
    """Tokens in the cache. An idle row's step writes there too: a place that its next prefill chunk fills anew."""
    position_offsets: tuple[float, ...]
    """What to add to `length` to get the token's rotary position, by axis."""
    active: bool


class ModelRunner:
    """Runs one model over one cache. All methods belong to the engine's thread."""

    def __init__(self, family: Family, cache: SlotCache, encoder: Encoder) -> None:
        self.family = family
        self.cache = cache
        self.device: torch.device = family.model.device
        self.dtype: torch.dtype = family.model.dtype
        self._encoder = encoder
        self._embedding = family.model.get_input_embeddings()

    @torch.inference_mode()
    def start(self, sequence: Sequence, media: Media) -> list[Item]:
        """Bring a request's prompt and media to the device and find its positions; what is to be encoded.

        The processor's tensors are dropped. Raises `BadRequest` for modalities that the model does not take.
        """
        request = sequence.request
        sequence.prompt_T = self._to_device(sequence.prompt_T)
        tensors = {name: self._on_device(array) for name, array in media.tensors.items()}
        media.tensors.clear()
        kinds = self.family.kinds_in(tensors)
        if kinds:
            media.types_T = self.family.token_types_T(sequence.prompt_T, tensors)
            media.blocks = self.family.blocks(media.types_T)
        sequence.positions = self.family.positions(sequence.prompt_T, tensors, request.use_audio_in_video)
        if sequence.positions is not None:
            # An answer goes on from its prompt's last position, as transformers' `generate` does.
            last = sequence.positions[:, -1] + 1 - sequence.num_prompt
            sequence.position_offsets = tuple(last.tolist())
        items = []
        for kind in kinds:
            feature = self.family.features[kind]
            arguments = {name: tensors[name] for name in feature.argument_names if name in tensors}
            if kind is not MediaKind.AUDIO:
                pixels = arguments[feature.main_tensor]
                arguments[feature.main_tensor] = normalised(pixels, request.pixel_norm, self.dtype)
            items += split_items(kind, arguments)
        return items

    @torch.inference_mode()
    def encode(self, items: list[Item]) -> list[EncodedRows]:
        """Encoder outputs of the items of one request or of several."""
        return self._encoder.encode(items)

    @torch.inference_mode()
    def hand_over(self, sequence: Sequence, media: Media, items: list[Item], encoded: list[EncodedRows]) -> None:
        """Give a request its items' outputs. Raises `BadRequest` when they do not fit its prompt."""
        for kind in dict.fromkeys(item.kind for item in items):
            pieces = [rows for item, rows in zip(items, encoded, strict=True) if item.kind is kind]
            rows = joined_rows(pieces)
            expected = int(self.family.placeholders_T(sequence.prompt_T, kind).sum())
            if len(rows.rows_ND) != expected:
                found = len(rows.rows_ND)
                raise BadRequest(f"the prompt has room for {expected} {kind} tokens, its {kind} inputs make {found}")
            media.encoded[kind] = rows

    @torch.inference_mode()
    def prefill(self, sequence: Sequence, media: Media, end: int) -> torch.Tensor | None:
        """Compute the prompt's tokens up to `end`; logits [1, V] when that is all of them, otherwise None.

        Encoder outputs whose last row went in are dropped.
        """
        start = sequence.num_prefilled
        ids_1Q = sequence.prompt_T[None, start:end]
        outputs, embedded = self._rows_of_chunk(sequence, media, start, end)
        arguments: dict[str, Any] = dict(self.family.forward_types(media.types_T, end))
        if outputs:
            arguments["mm_encoder_outputs"] = outputs
        self.cache.at(PrefillSpan(sequence.choices[0].slot, start, end - start))
        with self._over_embeddings(embedded):
            result = self.family.model(
                input_ids=ids_1Q,
                position_ids=self._prompt_positions(sequence, start, end),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
                **arguments,
            )
        self.cache.done()
        sequence.num_prefilled = end
        return result.logits[:, -1].float() if end == sequence.num_prompt else None

    @torch.inference_mode()
    def decode(self, rows: list[Row]) -> torch.Tensor:
        """One more token for each of the cache's first R slots; logits [R, V], meaningless where a row idles."""
        axes = self.family.num_axes
        columns = torch.tensor([(row.token_id, row.length, row.active) for row in rows])
        ids_R, lengths_R, active_R = self._to_device(columns).T
        places = [[row.length + row.position_offsets[axis] for row in rows] for axis in range(axes)]
        positions = self._to_device(torch.tensor(places))[:, :, None]
        longest = max(row.length for row in rows) + 1
        width = min(-(-longest // WIDTH_STEP) * WIDTH_STEP, self.cache.max_length)
        span = DecodeSpan(lengths_R, width, active_R.bool(), all(row.active for row in rows))
        self.cache.at(span)
        result = self.family.model(
            input_ids=ids_R[:, None],
            attention_mask=self.family.mask(self.cache.decode_masks(span, self.dtype)),
            position_ids=positions if axes > 1 else positions[0],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache.done()
        logits_RV: torch.Tensor = result.logits[:, -1].float()
        return logits_RV

    def _prompt_positions(self, sequence: Sequence, start: int, end: int) -> torch.Tensor:
        if sequence.positions is not None:
            return sequence.positions[:, None, start:end]
        return self.family.with_axes(torch.arange(start, end, device=self.device)[None])

    def _rows_of_chunk(
        self, sequence: Sequence, media: Media, start: int, end: int
    ) -> tuple[dict[str, Any], list[tuple[torch.Tensor, torch.Tensor]]]:
        """Encoder outputs for the chunk's placeholders: those that the forward takes, those to be put over embeddings.

        The latter are pairs of places (bool [Q]) and rows [n, D].
        """
        outputs: dict[str, Any] = {}
        embedded = []
        for kind, encoded in list(media.encoded.items()):
            places_T = self.family.placeholders_T(sequence.prompt_T, kind)
            first, stop = (int(count) for count in (places_T[:start].sum(), places_T[:end].sum()))
            if stop == len(encoded.rows_ND):
                del media.encoded[kind]
            if first == stop:
                continue
            if self.family.features[kind].by_forward:
                outputs[str(kind)] = encoded.output(first, stop)
            else:
                embedded.append((places_T[start:end], encoded.rows_ND[first:stop]))
        return outputs, embedded

    @contextmanager
    def _over_embeddings(self, embedded: list[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[None]:
        """While open, the token embeddings [1, Q, D] come out with rows put over them: the forward's own parameter for
        encoder outputs has no place for sound."""

        def put_over(module: Any, inputs: Any, embeddings_1QD: torch.Tensor) -> torch.Tensor:
            for places_Q, rows_ND in embedded:
                embeddings_1QD = embeddings_1QD.masked_scatter(
                    places_Q[None, :, None], rows_ND.to(embeddings_1QD.dtype)
                )
            return embeddings_1QD

        if not embedded:
            yield
            return
        hook = self._embedding.register_forward_hook(put_over)
        try:
            yield
        finally:
            hook.remove()

    def _on_device(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = self._to_device(torch.from_numpy(array))
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor
