"""Many processes that draw, encode, or answer at once."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

Given = TypeVar("Given")
Made = TypeVar("Made")
CHUNK = 16
"""Media that a process makes before it hands them over."""


def make_many(
    name: str,
    make: Callable[[np.random.Generator], Made],
    count: int,
    seed: int,
    workers: int,
    seconds: float | None = None,
) -> list[Made]:
    """`count` media by `make`, or as many as there are after `seconds`."""
    seeds = [(seed, number) for number in range(-(-count // CHUNK))]
    made: list[Made] = []
    end = None if seconds is None else time.monotonic() + seconds
    with tqdm(total=len(seeds) * CHUNK, desc=name, mininterval=5) as bar:
        for chunk in at_once(partial(_make_chunk, make), seeds, workers):
            made += chunk
            bar.update(len(chunk))
            if end is not None and time.monotonic() > end:
                break
    return made


def at_once(call: Callable[[Given], Made], inputs: Sequence[Given], workers: int) -> Iterator[Made]:
    """What `call` makes of each input, in any order, by `workers` processes; here, in order, if there are none.

    They are spawned: what is forked of a process with threads may wait for ever. `call` is pickled once for each.
    """
    if workers == 0:
        yield from map(call, inputs)
        return
    with get_context("spawn").Pool(workers, _begin, (call,)) as pool:
        yield from pool.imap_unordered(_called, inputs)


_call: Callable[[Any], Any] | None = None
"""What this process is there to do."""


def _begin(call: Callable[[Any], Any]) -> None:
    global _call
    _call = call
    use_one_thread()


def _called(given: Any) -> Any:
    assert _call is not None
    return _call(given)


def _make_chunk(make: Callable[[np.random.Generator], Made], seed: tuple[int, int]) -> list[Made]:
    rng = np.random.default_rng(seed)
    return [make(rng) for _ in range(CHUNK)]


def use_one_thread(*_: object) -> None:
    """One process a core does more than threads that share them."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def endless(dataset: IterableDataset[Made], workers: int, ahead: int) -> Iterable[Made]:
    """What `dataset` yields, made by `workers` forked processes, each so far `ahead`; here if there are none.

    They must not use a device.
    """
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=use_one_thread,
        prefetch_factor=ahead if workers else None,
        multiprocessing_context="fork" if workers else None,
    )


def _as_it_is(made: Any) -> Any:
    return made
