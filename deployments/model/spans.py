"""Where a forward pass stands in the KV cache: one slot's prefill chunk, or a decode step of the first R slots."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """Positions `start` to `start + length` of one slot."""

    slot: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class DecodeSpan:
    """The next position of each of the first R slots."""

    lengths_R: torch.Tensor
    """int64, on the device: tokens that each row holds already, so the place of its next one."""
    width: int
    """At least the longest row's length + 1: how far the views reach."""
    active_R: torch.Tensor
    """bool, on the device: rows that really decode. Others may be between two prefill chunks."""
    all_active: bool

    @property
    def rows(self) -> int:
        return self.lengths_R.shape[0]


Span = PrefillSpan | DecodeSpan
