"""Keys, values and recurrent states themselves, moved about as tables change. Knows pages, not whose they are."""

from dataclasses import dataclass
from typing import Protocol

import torch
from transformers.cache_utils import Cache

from deployments.model.kv_cache.linear import StateLayer
from deployments.model.kv_cache.store import CachePlan, StoreLayer


@dataclass(frozen=True, slots=True)
class Held:
    """What several tables had, on the host."""

    keys: list[tuple[torch.Tensor, ...]]
    """By layer."""
    states: list[list[list[torch.Tensor]]]
    """By table and layer, for recurrent ones."""


class Storage(Protocol):
    """Where tokens' keys and sequences' states are. Belongs to the engine's thread."""

    def copy(self, source: int, target: int, count: int) -> None:
        """Make `count` places from `target` on hold what those from `source` on hold."""
        ...

    def copy_state(self, source: int, target: int) -> None:
        """Make one sequence's states another's."""
        ...

    def take_out(self, pages: list[int], states: list[int]) -> Held:
        """Copies of what these hold, on the host."""
        ...

    def put_back(self, held: Held, pages: list[int], states: list[int]) -> None:
        """Write what was taken out, to other pages and states; `held` is not used again."""
        ...

    def forget(self, held: Held) -> None:
        """What was taken out is not put back."""
        ...

    def commit(self) -> None:
        """A pass has gone well."""
        ...

    def discard(self) -> None:
        """A pass has failed."""
        ...


class LocalStorage:
    """In the memory of this process's device."""

    def __init__(
        self, plan: CachePlan, *, num_pages: int, page_size: int, num_states: int, device: torch.device
    ) -> None:
        self.layers: Cache = plan.allocate(num_pages * page_size, num_states, device)
        self._page_size = page_size
        self._device = device
        self._stores = [layer for layer in self.layers.layers if isinstance(layer, StoreLayer)]
        self._state_layers = [layer for layer in self.layers.layers if isinstance(layer, StateLayer)]

    def copy(self, source: int, target: int, count: int) -> None:
        for layer in self._stores:
            layer.copy(source, target, count)

    def copy_state(self, source: int, target: int) -> None:
        for layer in self._state_layers:
            layer.copy(source, target)

    def take_out(self, pages: list[int], states: list[int]) -> Held:
        places = self._places(pages)
        return Held(
            [layer.read(places) for layer in self._stores],
            [[layer.read(state) for layer in self._state_layers] for state in states],
        )

    def put_back(self, held: Held, pages: list[int], states: list[int]) -> None:
        places = self._places(pages)
        for store, keys in zip(self._stores, held.keys, strict=True):
            store.write(places, keys)
        for state, mine in zip(states, held.states, strict=True):
            for layer, values in zip(self._state_layers, mine, strict=True):
                layer.write(state, values)

    def forget(self, held: Held) -> None:
        """Nothing: who has it lets go of it."""

    def commit(self) -> None:
        for layer in self._state_layers:
            layer.commit()

    def discard(self) -> None:
        for layer in self._state_layers:
            layer.discard()

    def _places(self, pages: list[int]) -> torch.Tensor:
        first = torch.tensor(pages, dtype=torch.int64)[:, None] * self._page_size
        return (first + torch.arange(self._page_size)).flatten().to(self._device)
