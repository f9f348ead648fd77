"""Forward passes: the model, its cache and its towers behind a few calls. Knows no policy.

Shape legend: T prompt tokens, N tokens of a pass, R decode rows, C chunks, V vocabulary.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch

from deployments.model.families.family import Family
from deployments.model.forward.attention import Backend, KernelAttention, PiecewiseAttention, ragged_attention
from deployments.model.forward.batch import Batch, BatchMaker, Chunk, Row
from deployments.model.forward.decode_graphs import DecodeGraphs
from deployments.model.forward.latest_tokens import LatestTokens
from deployments.model.forward.media_rows import MediaRows, PlacedRows, find_rows
from deployments.model.forward.recorder import Recorder
from deployments.model.forward.tower_runner import TowerRunner
from deployments.model.kv_cache.cache import KVCache
from deployments.model.kv_cache.linear import make_ragged
from deployments.model.multimodal.request_media import Media
from deployments.model.multimodal.uploads import Uploads

logger = logging.getLogger(__name__)

# Payloads are views of shared memory, hence read-only; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class Followers(Protocol):
    """Those who hold the other parts of a model that is divided."""

    @property
    def count(self) -> int:
        """Of all parts, the runner's own included."""
        ...

    def computing(
        self, rows: Sequence[Row], chunks: Sequence[Chunk], found: Sequence[PlacedRows]
    ) -> AbstractContextManager[None]:
        """While open, they compute this pass as well. Raises `RankLost` where they can not go on together."""
        ...


class ModelRunner:
    """Runs one model over one cache. All methods belong to the engine's thread."""

    def __init__(
        self, family: Family, cache: KVCache, encoder: TowerRunner, uploads: Uploads, backend: Backend | None = None
    ) -> None:
        self.family = family
        self.cache = cache
        self.encoder = encoder
        self.device: torch.device = family.model.device
        self.dtype: torch.dtype = family.model.dtype
        self.latest = LatestTokens(cache.max_sequences, self.device)
        """What rows begin with whose tokens the host has not seen; filled by who chooses tokens."""
        self._batches = BatchMaker(cache, uploads, self.latest, family.num_axes, self.device)
        self._media_rows = MediaRows(family.model, {f.token_id for f in family.features.values()}, uploads)
        self._head = family.model.get_output_embeddings()
        self._backend = backend or self._default_backend()
        self._graphs: DecodeGraphs | None = None
        self.followers: Followers | None = None
        """Who computes each pass with this runner; None where the whole model is here."""
        make_ragged(family.model)

    @property
    def place(self) -> str:
        """Where the model is: `cpu`, `cuda`, `2 x cuda`."""
        kind = self.device.type
        return kind if self.followers is None else f"{self.followers.count} x {kind}"

    def _default_backend(self) -> Backend:
        return PiecewiseAttention() if self.device.type == "cpu" else KernelAttention(self.cache.page_size)

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], chunks: Sequence[tuple[Chunk, Media | None]]) -> torch.Tensor:
        """One pass. Logits [R + C, V], float32: of each row, then of each chunk's last token.

        Where it raises, the sequences are as they were: what was written to the store is written again.
        """
        found = find_rows(len(rows), chunks)
        alone = [chunk for chunk, _ in chunks]
        if self.followers is None:
            return self.compute(rows, alone, found)
        with self.followers.computing(rows, alone, found):
            return self.compute(rows, alone, found)

    @torch.inference_mode()
    def compute(self, rows: Sequence[Row], chunks: Sequence[Chunk], found: Sequence[PlacedRows]) -> torch.Tensor:
        """This process's part of a pass; `found`: encoder outputs for its places."""
        if self._graphs is not None and rows and not chunks:
            replayed = self._graphs.run(rows)
            if replayed is not None:
                return replayed.clone()
        batch = self._batches.make(rows, chunks)
        try:
            with self._media_rows.placed(batch.ids_N, found) as (ids_N, arguments):
                logits = self._forward(batch, ids_N, arguments)
        except BaseException:
            self.cache.discard()
            raise
        self.cache.commit()
        return logits.float()

    @torch.inference_mode()
    def record_graphs(self, max_rows: int, recorder: Recorder) -> None:
        """Replay steps that only decode from now on, where the model's work can be recorded."""
        if self.cache.recurrent:
            logger.info("decode steps are launched: the model has recurrent layers")
            return
        graphs = DecodeGraphs(
            self._decoded,
            self.cache,
            self.latest,
            recorder,
            num_axes=self.family.num_axes,
            max_rows=max_rows,
            device=self.device,
        )
        try:
            graphs.record()
        except RuntimeError as error:  # such as routers that ask the device for a number
            logger.info("decode steps are launched, they can not be recorded: %s", str(error).splitlines()[0])
        else:
            self._graphs = graphs

    def _decoded(self, batch: Batch) -> torch.Tensor:
        """Logits [R, V] of decode rows."""
        with ragged_attention(self.family.text_config):
            return self._result(batch, batch.ids_N, {})

    def _forward(self, batch: Batch, ids_N: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
        if batch.num_tokens == batch.num_rows:  # all of them are wanted
            return self._decoded(batch)
        with ragged_attention(self.family.text_config), self._logits_of(batch.kept):
            return self._result(batch, ids_N, arguments)

    def _result(self, batch: Batch, ids_N: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
        positions = batch.positions_AN[:, None]
        result = self.family.model(
            input_ids=ids_N[None],
            position_ids=positions if self.family.num_axes > 1 else positions[0],
            cache=self.cache.layers,
            use_cache=True,
            batch=batch,
            backend=self._backend,
            both_ways=self.family.both_ways,
            **arguments,
        )
        logits: torch.Tensor = result.logits[0]
        return logits

    @contextmanager
    def _logits_of(self, places: torch.Tensor) -> Iterator[None]:
        """While open, the head computes logits at these places of the row alone."""
        hook = self._head.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, places],))
        try:
            yield
        finally:
            hook.remove()
