"""A further rank of tensor parallelism without Ray: its part of the model, following the replica that is rank 0."""

from collections.abc import Sequence
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from deployments.config import AppConfig
from deployments.errors import InternalError
from deployments.model.forward.runner import ModelRunner
from deployments.model.loading import build_follower, freeze_heap
from deployments.model.parallel.follower import Follower
from deployments.model.parallel.ranks import TIMEOUT_S, Ranks
from deployments.model.weights import load_model, served_part, start_device

Address = tuple[str, int]


def connected(addresses: Sequence[Address], key: bytes) -> list[Connection]:
    """Rank 0's ends. `key`: what both ends of a connection prove to each other that they know."""
    return [Client(address, authkey=key) for address in addresses]


class RankStage:
    """Listens from the start. `run` belongs to one thread, all else to any."""

    def __init__(self, config: AppConfig, key: bytes, host: str) -> None:
        """`host`: this process's address for rank 0."""
        self._config = config
        self._listener = Listener((host, 0), authkey=key)
        self._follower: Follower | None = None
        self._ended = False

    @property
    def address(self) -> Address:
        """Where rank 0 connects to."""
        host, port = self._listener.address
        return str(host), int(port)

    def run(self) -> None:
        """Wait for rank 0, load, and follow it to the end. Raises what ends it otherwise."""
        try:
            channel = self._listener.accept()
            self._listener.close()
            self._follow(channel)
        finally:
            self._ended = True

    def check_health(self) -> None:
        """Raise `InternalError` when it has ended, or is at one piece of work that does not end."""
        if self._ended:
            raise InternalError("it has ended")
        if self._follower is not None and self._follower.busy_s > TIMEOUT_S:
            raise InternalError("its pass does not end")

    def _follow(self, channel: Connection) -> None:
        config = self._config
        device = start_device(config)
        self._follower = follower = Follower(channel, device)

        def load(ranks: Ranks) -> Any:
            return load_model(config, device, ranks, served_part(config))

        def prepare(model: Any, ranks: Ranks) -> ModelRunner:
            runner = build_follower(model, config.engine, ranks)
            freeze_heap()
            return runner

        follower.run(load, prepare)
