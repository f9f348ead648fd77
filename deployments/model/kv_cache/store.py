"""Keys and values of all sequences: one flat store a layer, allocated once. Which place is whose the tables say.

The layers are `CacheLayerMixin`s, so that transformers' models write to them by themselves: a forward pass is given its
`Batch` as an argument, which reaches both caches and attention. Layout is the store's own affair: on a CPU each head's
keys are one piece of memory, on a card each token's are, as the kernels want them. Every position is kept, for layers
with a sliding window too: pages are shared whole then.

Shape legend: T places, K key/value heads, D head dimension, N new tokens, S rows of recurrent states.
"""

from dataclasses import dataclass
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
from deployments.model.kv_cache.linear import StateLayer


class StoreLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """`keys` and `values` are [K, T, D] on a CPU, [T, K, D] on a card."""

    is_sliding = False
    is_compileable = False

    def __init__(self, probe: Any, num_places: int, device: torch.device) -> None:
        """`probe`: a layer of transformers' own that has keys, whose shapes and types these are."""
        super().__init__()
        self.place_axis = 1 if device.type == "cpu" else 0
        self.keys, self.values = (self._zeros(like, num_places, device) for like in (probe.keys, probe.values))
        self._by_kernel = device.type == "cuda" and self.keys.dtype is not torch.float64
        self.is_initialized = True

    def _zeros(self, like: torch.Tensor, num_places: int, device: torch.device) -> torch.Tensor:
        shape = [like.shape[1], like.shape[3]]
        shape.insert(self.place_axis, num_places)
        return torch.zeros(shape, dtype=like.dtype, device=device)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: storage is there from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, kwargs: dict[str, Any], **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [1, K, N, D] to the batch's places; returns the whole store. `kwargs` are the attention layer's own."""
        places_N = kwargs["batch"].places_N
        if self._by_kernel:
            from deployments.model.kernels import pointwise

            pointwise.store(key_states, value_states, self.keys, self.values, places_N)
            return self.keys, self.values
        for store, states in ((self.keys, key_states[0]), (self.values, value_states[0])):
            store.index_copy_(self.place_axis, places_N, states.movedim(1, self.place_axis))
        return self.keys, self.values

    def read(self, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Copies of what these places hold, on the host."""
        return tuple(store.index_select(self.place_axis, places).cpu() for store in (self.keys, self.values))

    def write(self, places: torch.Tensor, held: tuple[torch.Tensor, ...]) -> None:
        for store, states in zip((self.keys, self.values), held, strict=True):
            store.index_copy_(self.place_axis, places, states.to(store.device))

    def copy(self, source: int, target: int, count: int) -> None:
        """Make `count` places from `target` on hold what those from `source` on hold."""
        for store in (self.keys, self.values):
            store.narrow(self.place_axis, target, count).copy_(store.narrow(self.place_axis, source, count))

    def get_seq_length(self) -> int:
        """Positions are given with each pass: to transformers the store looks empty."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        raise AssertionError("nobody makes masks")

    def get_max_length(self) -> int:
        return int(self.keys.shape[self.place_axis])


@dataclass(frozen=True, slots=True)
class CachePlan:
    """What tokens and sequences cost, learnt from the cache that a probe forward pass filled."""

    layers: list[Any]
    """Of a `DynamicCache`."""

    @classmethod
    def of(cls, probe: DynamicCache) -> "CachePlan":
        """Raises `InternalError` naming the layer when one is of a kind that the store can't hold."""
        known = (DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer, DummyLayer)
        for number, layer in enumerate(probe.layers):
            if type(layer) not in known:
                raise InternalError(f"cache layer {number} is a {type(layer).__name__}, which the engine can not hold")
        return cls(list(probe.layers))

    @property
    def recurrent(self) -> bool:
        """Whether some layers keep a state for each sequence instead of keys for each token."""
        return any(isinstance(layer, LinearAttentionLayer) for layer in self.layers)

    @property
    def token_bytes(self) -> int:
        """Of keys and values of one token in all layers."""
        stored = [layer for layer in self.layers if isinstance(layer, DynamicLayer)]
        tensors = [tensor for layer in stored for tensor in (layer.keys, layer.values)]
        return sum(tensor.shape[1] * tensor.shape[3] * tensor.element_size() for tensor in tensors)

    @property
    def state_bytes(self) -> int:
        """Of the recurrent states of one sequence."""
        return sum(
            StateLayer(layer, 1, torch.device("meta")).nbytes
            for layer in self.layers
            if isinstance(layer, LinearAttentionLayer)
        )

    def allocate(self, num_places: int, num_states: int, device: torch.device) -> Cache:
        """Zeroed layers, as transformers' forward takes them."""
        layers: list[Any] = []
        for layer in self.layers:
            if isinstance(layer, LinearAttentionLayer):
                layers.append(StateLayer(layer, num_states, device))
            else:
                layers.append(layer if isinstance(layer, DummyLayer) else StoreLayer(layer, num_places, device))
        return Cache(layers=layers)
