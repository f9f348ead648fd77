"""Which frames of a video are delivered together, where the model is to begin with the first before the last are there.

A group is cut where decoding can begin anew (`plan`), with all frames of the patches' rows that it has a part in: so no
packet is decoded twice, and groups put one after the other are the whole. There are few of them, each worth a call
of its own; the first and the last are the smallest, since nothing else is done during the one and after the other.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deployments.decoder.plan import PacketTable, first_packets, plan_runs
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
    table: PacketTable, targets: NDArray[np.int64], packet_megapixels: float, row_frames: int, rule: GroupRule
) -> tuple[PartTask, ...]:
    """The groups of a video, in order; fewer than two where it is not worth it, or can't be taken apart.

    `targets` (slots,): packet numbers of the frames. `row_frames`: frames of a row of patches.
    """
    runs = plan_runs(table, targets)
    whole = sum(map(len, runs))
    number = min(rule.most, int(whole * packet_megapixels / rule.least_megapixels))
    ends = np.arange(row_frames, len(targets), row_frames)
    begins = np.minimum.accumulate(first_packets(table, targets)[::-1])[::-1][ends]
    ends = ends[begins > np.maximum.accumulate(targets)[ends - 1]]
    if number < 2 or not len(ends):
        return ()
    packets = np.array([sum(map(len, plan_runs(table, targets[:end]))) for end in ends])
    cuts = {int(ends[np.abs(packets - whole * share).argmin()]) for share in _shares(number)}
    return tuple(_group(table, targets, *edges) for edges in pairwise([0, *sorted(cuts), len(targets)]))


def _shares(number: int) -> list[float]:
    """Which share of the work is done at the end of each group but the last."""
    return [(2 * group + 1) / (2 * (number - 1)) for group in range(number - 1)]


def _group(table: PacketTable, targets: NDArray[np.int64], first: int, stop: int) -> PartTask:
    mine = targets[first:stop]
    runs = tuple((run.start, run.stop) for run in plan_runs(table, mine))
    return PartTask(tuple(int(number) for number in mine), runs, len(targets))
