"""A process in which the second rank of a divided tiny model lives, engine after engine; no Ray."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import torch

from deployments.config import EngineConfig
from deployments.errors import InternalError
from deployments.model.forward.runner import ModelRunner
from deployments.model.loading import build_follower
from deployments.model.parallel.follower import Follower
from deployments.model.parallel.ranks import Ranks
from deployments.model.parallel.shards import shard
from tests.support.tiny_families import FAMILIES

HOST = "127.0.0.1"
KEY = b"of the tests"
CPU = torch.device("cpu")


class SecondRank:
    """Started once, and again after its death: it takes seconds to import what it needs."""

    def __init__(self) -> None:
        self._start()

    def open(self, family: str, config: EngineConfig) -> Connection:
        """Rank 0's connection to an engine's second rank, which is about to load the family's tiny model."""
        if not self._process.is_alive():
            self._start()
        self._orders.send((family, config))
        return Client(self._orders.recv(), authkey=KEY)

    def ending(self) -> str:
        """Wait until the last engine's rank has ended; how."""
        said: str = self._orders.recv()
        return said

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=_live, args=(theirs,), daemon=True)
        self._process.start()

    def _signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


def _live(orders: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        family, config = orders.recv()
        with Listener((HOST, 0), authkey=KEY) as listener:
            orders.send(listener.address)
            channel = listener.accept()
        try:
            _follow(channel, family, config)
        except Exception as error:
            orders.send(f"{type(error).__name__}: {error}")
        else:
            orders.send("well")


def _follow(channel: Connection, family: str, config: EngineConfig) -> None:
    def load(ranks: Ranks) -> Any:
        if family == "none":
            raise InternalError("there is no such model here")
        model = FAMILIES[family].build()
        shard(model, ranks)
        return model

    def prepare(model: Any, ranks: Ranks) -> ModelRunner:
        return build_follower(model, config, ranks)

    Follower(channel, CPU).run(load, prepare)
