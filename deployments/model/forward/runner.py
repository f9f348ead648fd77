"""Forward passes: encode a request's media, prefill a chunk, decode a step. Knows the model and its cache, no policy.

Shape legend: T prompt tokens, Q tokens of a chunk, R rows of a decode step, V vocabulary, N placeholders, D width.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deployments.errors import BadRequest
from deployments.model.families.family import Family
from deployments.model.forward.decode_step import DecodeStep, Row
from deployments.model.forward.encoder import Encoder
from deployments.model.forward.joint_pass import Chunk, JointPass
from deployments.model.kv_cache.cache import SlotCache
from deployments.model.kv_cache.spans import PrefillSpan
from deployments.model.multimodal.items import Item, split_items
from deployments.model.multimodal.request_media import EncodedRows, Media, joined_rows
from deployments.model.multimodal.uploads import Uploads
from deployments.model.sequence import Sequence
from deployments.types import MediaKind

# Payloads are views of shared memory, hence read-only; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


Goal = tuple[Sequence, Media, int]
"""A request, and up to which token its prompt is to be computed."""


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
        self.joint_pass = JointPass(family, cache, uploads)
        self.joint = False
        """Whether chunks and decode steps may share a pass: `checks.check_joint` finds out."""
        self._placeholders = {feature.token_id for feature in family.features.values()}
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
        arguments: dict[str, Any] = dict(self.family.forward_types(media.types_T, end))
        self.cache.at(PrefillSpan(sequence.choices[0].slot, start, end - start))
        with self._encoded([(sequence, media, end)], end - start) as encoded:
            result = self.family.model(
                input_ids=sequence.prompt_T[None, start:end],
                position_ids=self._prompt_positions(sequence, start, end),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
                **arguments,
                **encoded,
            )
        self.cache.done()
        _advance(sequence, media, end)
        return result.logits[:, -1].float() if end == sequence.num_prompt else None

    def joins(self, rows: list[Row]) -> bool:
        """Whether chunks can be computed in one pass with a decode step of these rows: not where an answer's token
        would be taken for a place of media."""
        return self.joint and not any(row.token_id in self._placeholders for row in rows)

    @torch.inference_mode()
    def join(self, ends: list[Goal], rows: list[Row]) -> torch.Tensor:
        """Prefill several prompts up to their ends and decode a step (of no rows: none) in one pass.

        Logits [C + R, V]: of each prompt's last new token, then as of `decode`. Where it raises, nothing has changed.
        """
        chunks = []
        for sequence, _, end in ends:
            span = PrefillSpan(sequence.choices[0].slot, sequence.num_prefilled, end - sequence.num_prefilled)
            positions = sequence.positions
            piece = None if positions is None else positions[:, span.start : end]
            chunks.append(Chunk(span, sequence.prompt_T[span.start : end], piece))
        with self._encoded(ends, sum(chunk.span.length for chunk in chunks) + len(rows)) as encoded:
            logits = self.joint_pass.run(chunks, rows, encoded)
        for goal in ends:
            _advance(*goal)
        return logits

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

    @contextmanager
    def _encoded(self, ends: list[Goal], num_tokens: int) -> Iterator[dict[str, Any]]:
        """While open, a pass over the prompts' next tokens, `num_tokens` with what follows them, finds the encoder
        outputs of their placeholders: in the arguments given, or over the embeddings."""
        pieces: dict[MediaKind, list[EncodedRows]] = {}
        embedded = []
        place = 0
        for sequence, media, end in ends:
            start = sequence.num_prefilled
            for kind, encoded in media.encoded.items():
                first, stop = (int(media.counts_T[kind][token]) for token in (start, end))
                if first < stop and self.family.features[kind].by_forward:
                    pieces.setdefault(kind, []).append(encoded.piece(first, stop))
                elif first < stop:
                    places_N = torch.zeros(num_tokens, dtype=torch.bool, device=self.device)
                    places_N[place : place + end - start] = self.family.placeholders_T(
                        sequence.prompt_T[start:end], kind
                    )
                    embedded.append((places_N, encoded.rows_ND[first:stop]))
            place += end - start
        outputs = {str(kind): joined_rows(found).output() for kind, found in pieces.items()}
        with self._over_embeddings(embedded):
            yield {"mm_encoder_outputs": outputs} if outputs else {}

    @contextmanager
    def _over_embeddings(self, embedded: list[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[None]:
        """While open, the token embeddings [1, Q, D] come out with rows put over them: the forward's own parameter for
        encoder outputs has no place for sound."""

        def put_over(module: Any, inputs: Any, embeddings_1ND: torch.Tensor) -> torch.Tensor:
            for places_N, rows_ND in embedded:
                embeddings_1ND = embeddings_1ND.masked_scatter(
                    places_N[None, :, None], rows_ND.to(embeddings_1ND.dtype)
                )
            return embeddings_1ND

        if not embedded:
            yield
            return
        hook = self._embedding.register_forward_hook(put_over)
        try:
            yield
        finally:
            hook.remove()


def _advance(sequence: Sequence, media: Media, end: int) -> None:
    sequence.num_prefilled = end
    media.prefilled(end)
