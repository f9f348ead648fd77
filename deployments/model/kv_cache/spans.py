"""Where a forward pass stands in the KV cache: one slot's prefill chunk, a decode step of the first slots, or both."""

import itertools
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


@dataclass(frozen=True, slots=True)
class JointSpan:
    """Chunks of several prompts, one after the other as one row of tokens, then a decode step's R tokens."""

    chunks: tuple[PrefillSpan, ...]
    masks: tuple[torch.Tensor | None, ...]
    """Additive [1, 1, Q, start + Q] of each chunk; None where every token sees just those before it in its chunk."""
    decode: DecodeSpan | None
    decode_mask: torch.Tensor | None
    """Additive [R, 1, 1, width]."""

    @property
    def pieces(self) -> list[tuple[PrefillSpan, torch.Tensor | None, slice]]:
        """Each chunk, its mask, and where its tokens stand in the row."""
        stops = list(itertools.accumulate(chunk.length for chunk in self.chunks))
        places = [slice(stop - chunk.length, stop) for chunk, stop in zip(self.chunks, stops, strict=True)]
        return list(zip(self.chunks, self.masks, places, strict=True))

    @property
    def num_prompt(self) -> int:
        """Tokens of all chunks: those of the decode step follow."""
        return sum(chunk.length for chunk in self.chunks)


Span = PrefillSpan | DecodeSpan | JointSpan
"""A `JointSpan` only where every layer keeps every position."""
