"""Recurrent state of linear-attention layers, one fixed-size state a slot; see `kv_cache` for the slots.

A decode step works on the first R rows in place. Rows of sequences that are between two prefill chunks must come out of
it untouched: then the step works on copies and only the rows that decode are written back.
"""

from typing import Any

import torch
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from deployments.model.kv_cache.spans import DecodeSpan, PrefillSpan, Span


class SlotLinearLayer(LinearAttentionCacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """`conv` and `recurrent` hold one tensor [S, ...] for each of the layer's states that has such."""

    is_compileable = False

    def __init__(self, conv: dict[int, torch.Tensor], recurrent: dict[int, torch.Tensor], num_states: int) -> None:
        self._conv, self._recurrent = conv, recurrent
        super().__init__(number_of_states=num_states)
        self.conv_kernel_size = {i: store.shape[-1] for i, store in conv.items()}
        self.span: Span = PrefillSpan(0, 0, 0)

    @property
    def nbytes(self) -> int:
        return sum(store.nbytes for store in [*self._conv.values(), *self._recurrent.values()])

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: storage is there from the start."""

    def begin(self, span: Span) -> None:
        """Point the states at the rows that the coming forward pass works on."""
        self.span = span
        fresh = isinstance(span, PrefillSpan) and span.start == 0
        self.has_previous_state = dict.fromkeys(range(self.number_of_states), not fresh)
        self.conv_states = {i: self._rows(store, span) for i, store in self._conv.items()}
        self.recurrent_states = {i: self._rows(store, span) for i, store in self._recurrent.items()}

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

    def finish(self) -> None:
        """After the forward pass: write back the rows that decoded, where it worked on copies."""
        span = self.span
        if isinstance(span, DecodeSpan) and not span.all_active:
            pairs = [(store, self.conv_states[i]) for i, store in self._conv.items()]
            pairs += [(store, self.recurrent_states[i]) for i, store in self._recurrent.items()]
            for store, copy in pairs:
                store[: span.rows][span.active_R] = copy[span.active_R]

    def copy_slot(self, source: int, target: int, length: int) -> None:
        for store in [*self._conv.values(), *self._recurrent.values()]:
            store[target] = store[source]

    @staticmethod
    def _rows(store: torch.Tensor, span: Span) -> torch.Tensor:
        if isinstance(span, PrefillSpan):
            return store[span.slot : span.slot + 1]
        assert isinstance(span, DecodeSpan), "states of several sequences have no joint pass"
        rows = store[: span.rows]
        return rows if span.all_active else rows.clone()
