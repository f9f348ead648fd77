"""Further ranks for `benchmarks.engine.gpu`: a process and a card each, with its part of the same random model."""

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.engine.gpu_model import random_model
from deployments.config import EngineConfig
from deployments.model.forward.runner import ModelRunner
from deployments.model.loading import build_follower
from deployments.model.parallel.follower import Follower
from deployments.model.parallel.leader import Leader
from deployments.model.parallel.ranks import Ranks
from deployments.model.parallel.shards import shard

HOST = "127.0.0.1"


def led(ranks: int, device: torch.device, config: EngineConfig) -> tuple[Leader, Any]:
    """A leader of so many ranks, this process's among them, and its part of the model."""
    context = multiprocessing.get_context("spawn")
    channels = []
    for rank in range(1, ranks):
        mine, theirs = context.Pipe()
        place = torch.device("cuda", rank) if device.type == "cuda" else device
        context.Process(target=_live, args=(theirs, place, config), daemon=True).start()
        channels.append(mine)
    for channel in channels:
        channel.recv()  # it has imported what it needs, which can take longer than the ranks wait for each other
    leader = Leader(channels, HOST)
    model = _part(device, leader.meet(device))
    leader.begin()
    return leader, model


def _live(channel: Connection, device: torch.device, config: EngineConfig) -> None:
    channel.send("here")
    if device.type == "cuda":
        torch.cuda.set_device(device)

    def load(ranks: Ranks) -> Any:
        return _part(device, ranks)

    def prepare(model: Any, ranks: Ranks) -> ModelRunner:
        return build_follower(model, config, ranks)

    Follower(channel, device).run(load, prepare)


def _part(device: torch.device, ranks: Ranks) -> Any:
    torch.manual_seed(0)  # everybody's weights are the same
    model = random_model(device)
    shard(model, ranks)
    return model
