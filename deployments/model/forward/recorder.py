"""Work that is recorded once and replayed, so that nobody waits for Python to launch its kernels."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

import torch

Result = TypeVar("Result")


class Recorder(Protocol):
    """Records what is computed from and into tensors at fixed addresses. Python runs once, whatever it decides."""

    def record(self, work: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        """What computes it again, and its result: without values yet, and overwritten by each replay.

        Raises `RuntimeError` for work that asks the device for anything.
        """
        ...

    def refusing_waits(self) -> AbstractContextManager[None]:
        """While open, to wait for the device raises `RuntimeError`."""
        ...


class CudaRecorder:
    """By CUDA graphs: later ones find their memory among what earlier, larger ones used."""

    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, work: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        work()  # kernels are compiled and libraries set up in a first call, which may wait
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = work()
        self._pool = graph.pool()
        return graph.replay, result

    @contextmanager
    def refusing_waits(self) -> Iterator[None]:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
