"""Tokens that have been chosen, or are being chosen on the device while the host goes on.

Shape legend: R rows, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from deployments.model.sampling.candidates import Drawn, DrawSettings, draw_from_all
from deployments.model.sequence import Token

ReadBack = Callable[[torch.Tensor], Callable[[], Any]]
"""Begins to bring a tensor to the host; what it gives waits for that and has the values, as lists."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A row's outcome; `token` is None when its logits were not numbers."""

    token: Token | None


Outcomes = list[Sampled | Exception]
"""Of each row."""


class Choosing(Protocol):
    """A step's choices."""

    @property
    def tokens_R(self) -> torch.Tensor | None:
        """On the device, to go on with; None where the host knows them already."""
        ...

    @property
    def corrected(self) -> Sequence[int]:
        """Rows whose token is another than in `tokens_R`, once collected."""
        ...

    def collect(self) -> Outcomes:
        """Waited for."""
        ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """The host knows them."""

    outcomes: Outcomes
    tokens_R: None = None
    corrected: tuple[int, ...] = ()

    def collect(self) -> Outcomes:
        return self.outcomes


@dataclass(slots=True)
class UnderWay:
    """Drawn on the device. Rows whose limits reach far are drawn once more, from all tokens."""

    tokens_R: torch.Tensor
    logits_RV: torch.Tensor
    columns_R5: torch.Tensor | None
    """How rows drew, on the host; None of greedy ones."""
    values: Callable[[], Any]
    corrected: list[int] = field(default_factory=list)

    @classmethod
    def of(
        cls, drawn: Drawn, logits_RV: torch.Tensor, columns_R5: torch.Tensor | None, read_back: ReadBack
    ) -> "UnderWay":
        told = torch.stack([drawn.tokens_R, drawn.wide_R.long(), drawn.broken_R.long()])
        return cls(drawn.tokens_R, logits_RV, columns_R5, read_back(told))

    def collect(self) -> Outcomes:
        tokens, wide, broken = self.values()
        if any(wide):
            assert self.columns_R5 is not None
            device = self.logits_RV.device
            index = torch.tensor([number for number, is_wide in enumerate(wide) if is_wide])
            settings = DrawSettings.of(self.columns_R5[index].to(device))
            again = draw_from_all(self.logits_RV[index.to(device)], settings).tolist()
            for number, token in zip(index.tolist(), again, strict=True):
                tokens[number] = token
            self.corrected = index.tolist()
        return [Sampled(None if bad else Token(token)) for token, bad in zip(tokens, broken, strict=True)]


def read_back(tensor: torch.Tensor) -> Callable[[], Any]:
    """From a card into pinned memory, waited for only when it is asked for."""
    if tensor.device.type != "cuda":
        return tensor.tolist
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record()

    def values() -> Any:
        there.synchronize()
        return host.tolist()

    return values
