"""Forward passes: encode a request's media, prefill a chunk, decode a step. Knows the model and its cache, no policy.

Shape legend: T prompt tokens, Q tokens of a chunk, R rows of a decode step, V vocabulary, N placeholders, D width.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deployments.errors import BadRequest
from deployments.model.decode_step import DecodeStep, Row
from deployments.model.encoder import Encoder
from deployments.model.family import Family
from deployments.model.items import Item, split_items
from deployments.model.kv_cache import SlotCache
from deployments.model.multimodal import EncodedRows, Media, joined_rows
from deployments.model.sequence import Sequence
from deployments.model.spans import PrefillSpan
from deployments.model.uploads import Uploads
from deployments.types import MediaKind

# Payloads are views of shared memory, hence read-only; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class ModelRunner:
    """Runs one model over one cache. All methods belong to the engine's thread."""

    def __init__(self, family: Family, cache: SlotCache, encoder: Encoder, uploads: Uploads, step: DecodeStep) -> None:
        self.family = family
        self.cache = cache
        self.device: torch.device = family.model.device
        self.dtype: torch.dtype = family.model.dtype
        self._encoder = encoder
        self._uploads = uploads
        self._step = step
        self._embedding = family.model.get_input_embeddings()

    @torch.inference_mode()
    def start(self, sequence: Sequence, media: Media) -> None:
        """Bring a request's prompt to the device, find its positions, and turn the processor's tensors into items.

        Raises `BadRequest` for modalities that the model does not take.
        """
        request, ids_T = sequence.request, sequence.prompt_T
        tensors = {name: torch.from_numpy(array) for name, array in media.tensors.items()}
        kinds = self.family.kinds_in(tensors)
        if kinds:
            types_T = self.family.token_types_T(ids_T, tensors)
            media.types_T = self._uploads.put(types_T)
            media.blocks = self.family.blocks(types_T)
        positions = self.family.positions(ids_T, tensors, request.use_audio_in_video)
        if positions is not None:
            # An answer goes on from its prompt's last position, as transformers' `generate` does.
            sequence.position_offsets = tuple((positions[:, -1] + 1 - sequence.num_prompt).tolist())
            sequence.positions = self._uploads.put(positions)
        for kind in kinds:
            feature = self.family.features[kind]
            places_T = self.family.placeholders_T(ids_T, kind)
            media.counts_T[kind] = torch.nn.functional.pad(places_T.cumsum(0), (1, 0))
            arguments = {name: tensors[name] for name in feature.argument_names if name in tensors}
            pixels = None if kind is MediaKind.AUDIO else feature.main_tensor
            by_frame = self.family.frames_apart
            media.items += split_items(kind, arguments, pixels, request.pixel_norm, by_frame=by_frame)
        self._encoder.expect(media.items)
        media.tensors.clear()
        sequence.prompt_T = self._uploads.put(ids_T)

    def cost(self, item: Item, *, wait: bool) -> int | None:
        """What a started request's item takes to encode, in its values: 0 where its encoder outputs are kept.

        None where that is not known yet and not to `wait` for.
        """
        return self._encoder.cost(item, wait=wait)

    def upload(self, items: list[Item]) -> None:
        """Begin to bring items to the device which will be encoded soon."""
        self._encoder.upload(items)

    @torch.inference_mode()
    def encode(self, items: list[Item]) -> list[EncodedRows]:
        """Encoder outputs of items of one request or of several."""
        return self._encoder.encode(items)

    @torch.inference_mode()
    def hand_over(self, media: Media) -> None:
        """Make a request's parts its encoder outputs. Raises `BadRequest` when they do not fit its prompt."""
        for kind, parts in media.parts.items():
            rows = joined_rows(parts)
            expected, found = int(media.counts_T[kind][-1]), len(rows.rows_ND)
            if found != expected:
                raise BadRequest(f"the prompt has room for {expected} {kind} tokens, its {kind} inputs make {found}")
            media.encoded[kind] = rows
        media.parts = {}

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
        return self._step.run(rows)

    def close(self) -> None:
        """No more requests will come."""
        self._encoder.close()

    @property
    def decode_shapes(self) -> list[tuple[int, int]]:
        """(rows, tokens in the cache) of the decode steps to be prepared before the first request."""
        return self._step.shapes

    def num_rows(self, used: int) -> int:
        """How many rows a decode step has which must have `used` ones."""
        return self._step.num_rows(used)

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
            counts_T = media.counts_T[kind]
            first, stop = int(counts_T[start]), int(counts_T[end])
            if stop == len(encoded.rows_ND):
                del media.encoded[kind]
            if first == stop:
                continue
            if self.family.features[kind].by_forward:
                outputs[str(kind)] = encoded.output(first, stop)
            else:
                places_Q = self.family.placeholders_T(sequence.prompt_T[start:end], kind)
                embedded.append((places_Q, encoded.rows_ND[first:stop]))
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
