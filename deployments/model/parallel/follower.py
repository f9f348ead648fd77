"""A further rank: does what rank 0 says until it says no more, or is gone."""

import logging
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from deployments.model.forward.runner import ModelRunner
from deployments.model.kv_cache.storage import Held
from deployments.model.parallel import messages
from deployments.model.parallel.ranks import Ranks

logger = logging.getLogger(__name__)


class Follower:
    """One rank's life. `run` belongs to one thread, `busy_s` to any."""

    def __init__(self, channel: Connection, device: torch.device) -> None:
        """Waits until all ranks have found each other."""
        self._channel = channel
        self._held: dict[int, Held] = {}
        self._began: float | None = None
        join = channel.recv()
        assert isinstance(join, messages.Join)
        self.ranks = Ranks(join.rank, join.size, device, (join.host, join.port), timeout_s=join.timeout_s)

    @property
    def busy_s(self) -> float:
        """How long it has been at what it does now; 0 while it waits for rank 0."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def run(self, load: Callable[[Ranks], Any], prepare: Callable[[Any, Ranks], ModelRunner]) -> None:
        """`load` this rank's part of the model, which may take any time; `prepare` a runner of it in step with the
        others; follow. Ends quietly when rank 0 says so or has gone; what else ends it, it is told, and raised."""
        try:
            model = load(self.ranks)
            self._channel.send(messages.PartLoaded())
            if isinstance(self._channel.recv(), messages.Begin):
                self._follow(prepare(model, self.ranks))
        except (EOFError, ConnectionError):
            logger.warning("rank 0 has gone")
        except Exception as error:
            try:
                self._channel.send(messages.Failed(f"{type(error).__name__}: {error}".splitlines()[0]))
            except OSError:
                return  # rank 0 has gone first
            raise
        finally:
            self._channel.close()
            self.ranks.close()

    @torch.inference_mode()
    def _follow(self, runner: ModelRunner) -> None:
        while not isinstance(message := self._channel.recv(), messages.End):
            self._began = time.monotonic()
            self._do(runner, message)
            self._began = None

    def _do(self, runner: ModelRunner, work: messages.Work) -> None:
        storage = runner.cache.storage
        match work:
            case messages.Pass():
                self._compute(runner, work)
            case messages.Copy():
                storage.copy(work.source, work.target, work.count)
            case messages.CopyState():
                storage.copy_state(work.source, work.target)
            case messages.TakeOut():
                self._held[work.number] = storage.take_out(work.pages, work.states)
            case messages.PutBack():
                storage.put_back(self._held.pop(work.number), work.pages, work.states)
            case messages.Forget():
                del self._held[work.number]

    def _compute(self, runner: ModelRunner, work: messages.Pass) -> None:
        rows, chunks = work.inputs()
        found = [coming.empty(runner.device) for coming in work.found]
        for one in found:
            for tensor in one.rows.tensors:
                self.ranks.from_first(tensor)
        runner.compute(rows, chunks, found)
