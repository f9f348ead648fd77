"""Inputs of recorded work: a tensor of the host and its twin at a fixed address of the device, filled ever again."""

from typing import Any

import torch


class Staged:
    """The copy is not waited for, so that the host's side is written to only once it has been made."""

    def __init__(self, first: torch.Tensor, device: torch.device) -> None:
        on_card = device.type == "cuda"
        self._host = torch.empty(first.shape, dtype=first.dtype, pin_memory=on_card).copy_(first)
        self._sent: Any = torch.cuda.Event() if on_card else None  # type: ignore[no-untyped-call]
        self.there = first.to(device, copy=True)
        """On the device."""

    def to_fill(self) -> torch.Tensor:
        """The host's side: what is written to it arrives with the next `send`."""
        if self._sent is not None:
            self._sent.synchronize()
        return self._host

    def send(self) -> None:
        self.there.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record()
