"""What stands for CUDA graphs on a CPU: the operations of one run, played again on the same tensors.

As a graph does it knows addresses, not Python: a replay reads what lies in the inputs of then, writes into the outputs
of then, and takes every turn that was taken at the recording.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")
"""Operations whose results Python can not go on without."""


class _NoWaits(TorchDispatchMode):
    """Refuses what would ask a device for a value."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _WAITS:
            raise RuntimeError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


class _Tape(_NoWaits):
    """Notes every operation with its arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self._played: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self._played.append((func, args, kwargs or {}, result))
        return result

    def scramble(self) -> None:
        """Nothing has been computed yet, as far as anybody may know."""
        for _, args, kwargs, result in self._played:
            given = {_address(tensor) for tensor in _tensors((args, kwargs))}
            for tensor in _tensors(result):
                if _address(tensor) not in given:
                    tensor.fill_(torch.nan if tensor.is_floating_point() else 1)

    @torch.inference_mode()
    def replay(self) -> None:
        for func, args, kwargs, result in self._played:
            again = func(*args, **kwargs)
            for old, new in zip(_tensors(result), _tensors(again), strict=True):
                if _address(old) != _address(new):
                    old.copy_(new)


class TapeRecorder:
    """Passed in where a card's recorder would be."""

    def __init__(self) -> None:
        self.replays = 0

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        tape = _Tape()
        with tape:
            result = work()
        tape.scramble()

        def replay() -> None:
            self.replays += 1
            tape.replay()

        return replay, result

    @contextmanager
    def refusing_waits(self) -> Iterator[None]:
        with _NoWaits():
            yield


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if torch.is_tensor(leaf)]


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
