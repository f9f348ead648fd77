"""Keys and values of all running sequences, allocated once: a slot (row) for each, in every layer.

Slots in use are kept at the front, so that a decode step works on the views `[:rows]` without gathering. A forward pass
is told by `SlotCache.at` where it stands: one slot's prefill chunk, or a decode step of all rows at their own lengths.
The layers are `CacheLayerMixin`s, so that transformers' models write to and read from them by themselves.

Shape legend: S slots, H key/value heads, L positions, D head dimension, Q new tokens, R rows of a decode step.
"""

from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

from deployments.errors import InternalError
from deployments.model.kv_cache.linear import SlotLinearLayer
from deployments.model.kv_cache.spans import DecodeSpan, JointSpan, PrefillSpan, Span


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """Full attention: every position is kept. `keys` and `values` are [S, H, L, D]."""

    is_sliding = False
    is_compileable = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True
        self.rows_R = torch.arange(keys.shape[0], device=keys.device)
        self.span: Span = PrefillSpan(0, 0, 0)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: storage is there from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [1, H, Q, D] of a chunk or [R, H, 1, D] of a step; return all that its queries may look at.

        Of both at once, [1, H, Q + R, D]: `joint_attention` finds in the whole storage what each of them looks at.
        """
        span = self.span
        if isinstance(span, JointSpan):
            return self._update_all(span, key_states[0], value_states[0])
        if isinstance(span, PrefillSpan):
            end = span.start + span.length
            self.keys[span.slot, :, span.start : end] = key_states[0]
            self.values[span.slot, :, span.start : end] = value_states[0]
            row = slice(span.slot, span.slot + 1)
            return self.keys[row, :, :end], self.values[row, :, :end]
        rows_R = self.rows_R[: span.rows]
        self.keys[rows_R, :, span.lengths_R] = key_states[:, :, 0]
        self.values[rows_R, :, span.lengths_R] = value_states[:, :, 0]
        return self.keys[: span.rows, :, : span.width], self.values[: span.rows, :, : span.width]

    def _update_all(self, span: JointSpan, keys: torch.Tensor, values: torch.Tensor) -> tuple[Any, Any]:
        # Steps first: rows that idle write where their own next chunk begins.
        if span.decode is not None:
            rows_R, places_R = self.rows_R[: span.decode.rows], span.decode.lengths_R
            self.keys[rows_R, :, places_R] = keys[:, span.num_prompt :].transpose(0, 1)
            self.values[rows_R, :, places_R] = values[:, span.num_prompt :].transpose(0, 1)
        for chunk, _, place in span.pieces:
            end = chunk.start + chunk.length
            self.keys[chunk.slot, :, chunk.start : end] = keys[:, place]
            self.values[chunk.slot, :, chunk.start : end] = values[:, place]
        return self.keys, self.values

    @property
    def _single_span(self) -> PrefillSpan | DecodeSpan:
        assert not isinstance(self.span, JointSpan), "masks and positions of a joint pass are made beforehand"
        return self.span

    def begin(self, span: Span) -> None:
        """The coming forward pass stands at `span`."""
        self.span = span

    def finish(self) -> None:
        """The forward pass is over."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        span = self._single_span
        return (span.start + query_length if isinstance(span, PrefillSpan) else span.width), 0

    def get_seq_length(self) -> int:
        span = self._single_span
        return span.start if isinstance(span, PrefillSpan) else span.width - 1

    @property
    def nbytes(self) -> int:
        return int(self.keys.nbytes + self.values.nbytes)

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])

    def decode_mask_RL(self, span: DecodeSpan) -> torch.Tensor:
        """bool [R, width]: which positions each row's query may look at."""
        places = torch.arange(span.width, device=span.lengths_R.device)
        return places[None, :] <= span.lengths_R[:, None]

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """Make `target` hold what `source` holds in its first `length` positions."""
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]


class SlotSlidingLayer(SlotLayer):
    """Sliding-window attention: position p is kept at p modulo the window, so a slot holds the last `window` ones."""

    is_sliding = True

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__(keys, values)
        self.window = keys.shape[2]
        self.sliding_window = self.window

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        span = self._single_span
        if isinstance(span, PrefillSpan):
            return self._prefill(span, key_states, value_states)
        rows_R, places_R = self.rows_R[: span.rows], span.lengths_R % self.window
        self.keys[rows_R, :, places_R] = key_states[:, :, 0]
        self.values[rows_R, :, places_R] = value_states[:, :, 0]
        width = min(span.width, self.window)
        return self.keys[: span.rows, :, :width], self.values[: span.rows, :, :width]

    def _prefill(
        self, span: PrefillSpan, key_states: torch.Tensor, value_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = key_states.device
        past = torch.arange(span.start - self._num_past(span), span.start, device=device) % self.window
        keys = torch.cat([self.keys[span.slot, :, past], key_states[0]], dim=1)[None]
        values = torch.cat([self.values[span.slot, :, past], value_states[0]], dim=1)[None]
        kept = min(span.length, self.window)
        end = span.start + span.length
        places = torch.arange(end - kept, end, device=device) % self.window
        self.keys[span.slot, :, places] = key_states[0, :, -kept:]
        self.values[span.slot, :, places] = value_states[0, :, -kept:]
        return keys, values

    def _num_past(self, span: PrefillSpan) -> int:
        return min(span.start, self.window - 1)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        span = self._single_span
        if isinstance(span, PrefillSpan):
            past = self._num_past(span)
            return past + query_length, span.start - past
        return min(span.width, self.window), 0

    def decode_mask_RL(self, span: DecodeSpan) -> torch.Tensor:
        places = torch.arange(min(span.width, self.window), device=span.lengths_R.device)
        return places[None, :] <= span.lengths_R[:, None]

    def copy_slot(self, source: int, target: int, length: int) -> None:
        super().copy_slot(source, target, min(length, self.window))


class SlotCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """The cache of all layers. `at(span)` before each forward pass, `done()` after it."""

    def __init__(self, layers: list[Any], num_slots: int, max_length: int) -> None:
        super().__init__(layers=layers)
        self.num_slots = num_slots
        self.max_length = max_length
        """Positions of a slot: prompt and answer of one sequence."""
        self._slot_layers = [layer for layer in layers if not isinstance(layer, DummyLayer)]

    def at(self, span: Span) -> None:
        for layer in self._slot_layers:
            layer.begin(span)

    def done(self) -> None:
        for layer in self._slot_layers:
            layer.finish()

    @property
    def joins(self) -> bool:
        """Whether chunks and a decode step can be written in one pass: every layer keeps every position."""
        return all(type(layer) is SlotLayer for layer in self.layers)

    @property
    def same_every_step(self) -> bool:
        """Whether a decode step does the same to every row, so that it can be recorded and replayed."""
        return not any(isinstance(layer, SlotLinearLayer) for layer in self._slot_layers)

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """Make slot `target` hold the first `length` positions of slot `source`."""
        for layer in self._slot_layers:
            layer.copy_slot(source, target, length)

    def decode_masks(self, span: DecodeSpan, dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
        """Additive masks [R, 1, 1, width] by kind of layer, under the names that transformers' models use."""
        masks: dict[str, torch.Tensor | None] = {}
        for layer in self._slot_layers:
            kind = self._kind(layer)
            if kind not in masks:
                masks[kind] = None if kind == "linear_attention" else _additive(layer.decode_mask_RL(span), dtype)
        return masks

    @property
    def nbytes(self) -> int:
        """Bytes of the storage."""
        return sum(layer.nbytes for layer in self._slot_layers)

    @staticmethod
    def _kind(layer: Any) -> str:
        if isinstance(layer, SlotLinearLayer):
            return "linear_attention"
        return "sliding_attention" if layer.is_sliding else "full_attention"


def _additive(allowed_RL: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(allowed_RL.shape, dtype=dtype, device=allowed_RL.device)
    return mask.masked_fill_(~allowed_RL, torch.finfo(dtype).min)[:, None, None, :]


class CachePlan:
    """What one slot costs, learnt from the cache that a probe forward pass filled (a transformers `DynamicCache`).

    Raises `InternalError` naming the layer when one is of a kind that slots can't hold.
    """

    def __init__(self, probe: DynamicCache) -> None:
        self._probe = probe.layers
        for number, layer in enumerate(self._probe):
            if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer, DummyLayer):
                raise InternalError(f"cache layer {number} is a {type(layer).__name__}, which the engine can not hold")

    def slot_bytes(self, max_length: int) -> int:
        """Bytes of a slot of `max_length` positions."""
        meta = torch.device("meta")
        return sum(layer.nbytes for layer in self._layers(1, max_length, meta) if not isinstance(layer, DummyLayer))

    def longest(self, budget_bytes: int, wanted: int) -> int:
        """Most positions, at most `wanted`, with which one slot fits into `budget_bytes`; 0 when nothing fits."""
        low, high = 0, wanted
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.slot_bytes(middle) <= budget_bytes else (low, middle - 1)
        return low

    def allocate(self, num_slots: int, max_length: int, device: torch.device) -> SlotCache:
        """Storage for all slots, zeroed."""
        return SlotCache(self._layers(num_slots, max_length, device), num_slots, max_length)

    def _layers(self, num_slots: int, max_length: int, device: torch.device) -> list[Any]:
        return [_slot_layer(layer, num_slots, max_length, device) for layer in self._probe]


def _slot_layer(probe: Any, num_slots: int, max_length: int, device: torch.device) -> Any:
    def like(tensor: torch.Tensor, length: int) -> torch.Tensor:
        shape = (num_slots, tensor.shape[1], length, tensor.shape[3])
        return torch.zeros(shape, dtype=tensor.dtype, device=device)

    def states(found: dict[int, torch.Tensor | None]) -> dict[int, torch.Tensor]:
        return {
            number: torch.zeros((num_slots, *state.shape[1:]), dtype=state.dtype, device=device)
            for number, state in found.items()
            if state is not None
        }

    if isinstance(probe, DummyLayer):
        return probe
    if isinstance(probe, LinearAttentionLayer):
        return SlotLinearLayer(states(probe.conv_states), states(probe.recurrent_states), probe.number_of_states)
    if isinstance(probe, DynamicSlidingWindowLayer):
        ring = min(probe.sliding_window, max_length)
        return SlotSlidingLayer(like(probe.keys, ring), like(probe.values, ring))
    return SlotLayer(like(probe.keys, max_length), like(probe.values, max_length))
