"""Host tensors to the model's device, beside what the device computes meanwhile."""

from typing import Any

import torch


class Upload:
    """A tensor on its way to the device."""

    __slots__ = ("_copied", "_tensor")

    def __init__(self, tensor: torch.Tensor, copied: Any) -> None:
        self._tensor = tensor
        self._copied = copied

    def tensor(self) -> torch.Tensor:
        """The tensor on the device; what is launched from now on waits for the copy there, the host does not."""
        if self._copied is not None:
            computing = torch.cuda.current_stream(self._tensor.device)
            computing.wait_event(self._copied)
            self._tensor.record_stream(computing)
        return self._tensor


class Uploads:
    """Belongs to the engine's thread. On a GPU: from pinned memory, on a stream of their own; on a CPU no copies."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def begin(self, tensor: torch.Tensor) -> Upload:
        """Start to copy a host tensor."""
        if self._stream is None:
            return Upload(tensor, None)
        with torch.cuda.stream(self._stream):
            there = tensor.pin_memory().to(self._device, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._stream)
        return Upload(there, copied)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """A small tensor that is needed at once."""
        return self.begin(tensor).tensor()
