"""Recurrent states of linear-attention layers: one of fixed size for each sequence, by its table's `state`.

Such a layer can't take tokens of several sequences as one row: it is given the batch's pieces one after the other, all
decode rows together (`RaggedLinear`). Until a pass has gone well its new states are kept beside the old ones, so that a
pass that failed can be repeated.

Shape legend: S rows of states, R decode rows, Q tokens of a chunk, N tokens of the batch, D width.
"""

from typing import Any

import torch
from transformers.cache_utils import LinearAttentionCacheLayerMixin


class StateLayer(LinearAttentionCacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """One tensor [S, ...] for each of the layer's states that has such."""

    is_compileable = False

    def __init__(self, probe: Any, num_states: int, device: torch.device) -> None:
        """`probe`: a layer of transformers' own, whose shapes and types these are."""

        def zeros(found: dict[int, torch.Tensor | None]) -> dict[int, torch.Tensor]:
            return {
                number: torch.zeros((num_states, *state.shape[1:]), dtype=state.dtype, device=device)
                for number, state in found.items()
                if state is not None
            }

        super().__init__(number_of_states=probe.number_of_states)
        self._conv, self._recurrent = zeros(probe.conv_states), zeros(probe.recurrent_states)
        self.conv_kernel_size = {i: store.shape[-1] for i, store in self._conv.items()}
        self._new: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        """(store, rows, what to put there) once the pass has gone well."""

    @property
    def _stores(self) -> list[torch.Tensor]:
        return [*self._conv.values(), *self._recurrent.values()]

    @property
    def nbytes(self) -> int:
        return sum(store.nbytes for store in self._stores)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: storage is there from the start."""

    def stand_at(self, states_S: torch.Tensor, *, fresh: bool) -> None:
        """Let the coming call work on copies of these rows; `fresh`: their sequence begins."""
        self.has_previous_state = dict.fromkeys(range(self.number_of_states), not fresh)
        self.conv_states = {i: store[states_S] for i, store in self._conv.items()}
        self.recurrent_states = {i: store[states_S] for i, store in self._recurrent.items()}
        self._new += [(store, states_S, self.conv_states[i]) for i, store in self._conv.items()]
        self._new += [(store, states_S, self.recurrent_states[i]) for i, store in self._recurrent.items()]

    def update_conv_state(
        self, conv_states: torch.Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Append the new columns; returns old and new ones together, keeps the last `conv_kernel_size`."""
        kept = self.conv_states[state_idx]
        size = kept.shape[-1]
        full = torch.cat([kept, conv_states], dim=-1) if self.has_previous_state[state_idx] else conv_states
        if full.shape[-1] < size:
            kept.copy_(torch.nn.functional.pad(full, (size - full.shape[-1], 0)))
        else:
            kept.copy_(full[..., -size:])
        self.has_previous_state[state_idx] = True
        return full

    def update_recurrent_state(self, recurrent_states: torch.Tensor, state_idx: int = 0, **kwargs: Any) -> torch.Tensor:
        state = self.recurrent_states[state_idx]
        state.copy_(recurrent_states)
        return state

    def commit(self) -> None:
        """The pass went well."""
        for store, states_S, new in self._new:
            store[states_S] = new
        self._new.clear()

    def discard(self) -> None:
        """The pass failed: its sequences are where they were."""
        self._new.clear()

    def read(self, state: int) -> list[torch.Tensor]:
        """One sequence's states, on the host."""
        return [store[state].cpu() for store in self._stores]

    def write(self, state: int, held: list[torch.Tensor]) -> None:
        for store, new in zip(self._stores, held, strict=True):
            store[state] = new.to(store.device)

    def copy(self, source: int, target: int) -> None:
        for store in self._stores:
            store[target] = store[source]


class RaggedLinear:
    """Mixed into a linear-attention module's class by `make_ragged`: cuts a batch's row into its sequences."""

    layer_idx: int

    def forward(
        self,
        hidden_states: torch.Tensor,
        cache: Any = None,
        attention_mask: Any = None,
        batch: Any = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """[1, N, D] with a `batch`, else as the class itself."""
        plain: Any = super().forward  # type: ignore[misc]  # of the module's own class
        if batch is None:
            out: torch.Tensor = plain(hidden_states, cache=cache, attention_mask=attention_mask, **kwargs)
            return out
        layer = cache.layers[self.layer_idx]
        outs = []
        rows = batch.num_rows
        if rows:
            layer.stand_at(batch.states_R, fresh=False)
            outs.append(plain(hidden_states[0, :rows, None], cache=cache).transpose(0, 1))
        for piece in batch.chunks:
            layer.stand_at(piece.state_1, fresh=piece.start == 0)
            outs.append(plain(hidden_states[:, piece.first : piece.stop], cache=cache))
        return torch.cat(outs, dim=1)


def make_ragged(model: Any) -> None:
    """Let a model's linear-attention modules take batches; what they compute for one sequence is unchanged."""
    for module in model.modules():
        linear = getattr(module, "linear_attn", None)
        if isinstance(linear, torch.nn.Module) and not isinstance(linear, RaggedLinear):
            linear.__class__ = type(f"Ragged{type(linear).__name__}", (RaggedLinear, type(linear)), {})
