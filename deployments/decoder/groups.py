"""Which frames of a video are delivered together, where the model is to begin with the first before the last are there.

A group is some runs of packets (`plan`), in their order, with all frames of the patches' rows that it has a part in: so
no packet is decoded twice, and groups put one after the other are the whole. There are few of them, each worth a call
of its own; the first and the last are the smallest, since nothing else is done during the one and after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deployments.decoder.plan import Run
from deployments.types import PartTask

GROUP_MEGAPIXELS = 240.0
"""Of one group on average, at least: a third of a second of 1080p, beside which opening the file anew is little."""
MOST_GROUPS = 4


class NotInGroups(Exception):
    """The frames turn out not to become patches; never leaves this room."""


@dataclass(frozen=True, slots=True)
class GroupRule:
    """When a video is taken apart."""

    least_megapixels: float = GROUP_MEGAPIXELS
    most: int = MOST_GROUPS


def plan_groups(
    runs: Sequence[Run], targets: NDArray[np.int64], packet_megapixels: float, row_frames: int, rule: GroupRule
) -> tuple[PartTask, ...]:
    """The groups of a video, in order; fewer than two where it is not worth it, or can't be taken apart.

    `runs`: as of `plan_runs`. `targets` (slots,): packet numbers of the frames. `row_frames`: frames of a row of
    patches.
    """
    ends = np.cumsum([len(run) for run in runs])
    number = min(rule.most, int(ends[-1] * packet_megapixels / rule.least_megapixels))
    if number < 2:
        return ()
    run_of_slot = np.searchsorted([run.start for run in runs], targets, side="right") - 1
    slots = np.cumsum(np.bincount(run_of_slot, minlength=len(runs)))
    latest = np.maximum.accumulate(run_of_slot)
    last = np.arange(len(runs) - 1)
    usable = last[(slots[last] % row_frames == 0) & (latest[slots[last] - 1] <= last)]
    if not len(usable):
        return ()
    cuts = {int(usable[np.abs(ends[usable] - ends[-1] * share).argmin()]) for share in _shares(number)}
    edges = [0, *(cut + 1 for cut in sorted(cuts)), len(runs)]
    return tuple(
        _group(runs[first:stop], targets, 0 if first == 0 else int(slots[first - 1]), int(slots[stop - 1]))
        for first, stop in pairwise(edges)
    )


def _shares(number: int) -> list[float]:
    """Which share of the work is done at the end of each group but the last."""
    return [(2 * group + 1) / (2 * (number - 1)) for group in range(number - 1)]


def _group(runs: Sequence[Run], targets: NDArray[np.int64], first: int, stop: int) -> PartTask:
    packets = tuple(int(number) for number in targets[first:stop])
    return PartTask(packets, tuple((run.start, run.stop) for run in runs), len(targets))
