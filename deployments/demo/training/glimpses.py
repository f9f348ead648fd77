"""What the vision tower is trained on: pictures and pairs of frames, fresh ones with every step.

Of a fixed pool it would learn each by heart: taught on 13,000 pictures and clips again and again it told nearly all of
their shapes, and of fresh ones eight to nine in ten. So each is met some ten times, changed by chance, and makes room.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from deployments.demo.training.pools import Pool, make_pools
from deployments.demo.training.visuals import Visual, random_glimpse
from deployments.demo.training.workers import CHUNK, endless

HELD, FIRST, REPLACED = 8192, 1024, 512
"""Glimpses at hand at most, before the first step, and how many are new when the pools are made anew."""


class Glimpses(IterableDataset[list[Visual]]):
    """Lists of CHUNK random glimpses without end."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __iter__(self) -> Iterator[list[Visual]]:
        worker = get_worker_info()
        rng = np.random.default_rng((self._seed, 0 if worker is None else worker.id))
        while True:
            yield [random_glimpse(rng) for _ in range(CHUNK)]


def glimpses(seed: int, workers: int) -> Iterator[list[Visual]]:
    """Made by `workers` processes, here if there are none."""
    yield from endless(Glimpses(seed), workers, ahead=8)


def fresh_pools(chunks: Iterator[list[Visual]], per_step: int, device: str) -> Iterator[list[Pool]]:
    """The pools of each step, in which `per_step` glimpses a step, of `chunks`, take the place of the oldest."""
    held: list[Visual] = []
    wanted = FIRST
    while True:
        fresh: list[Visual] = []
        while len(fresh) < wanted:
            fresh += next(chunks)
        held = [*held, *fresh][-HELD:]
        pools = [pool for pool, _ in make_pools(held, device)]
        for _ in range(max(1, REPLACED // per_step)):
            yield pools
        wanted = REPLACED
