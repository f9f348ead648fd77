"""Which packets have to be decoded for the frames that are wanted. Pure functions on tables; knows no file or codec.

A frame needs what lies between the keyframe it leans on and itself, but of the frames in between only those that others
refer to. Packets lie in *decode order*; frames are numbered in *display order*. With B-frames the two differ.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PacketTable:
    """One row a packet of a video stream, in decode order; P is their number."""

    pts: NDArray[np.int64]
    """(P,) presentation times in the stream's time base."""
    is_key: NDArray[np.bool_]
    """(P,) whether decoding may start here."""
    is_hidden: NDArray[np.bool_]
    """(P,) never shown: before the start of an edit list, or a reference only."""

    def display_order(self) -> NDArray[np.int64]:
        """Packet numbers of the frames that are shown, in the order in which they are shown."""
        shown = np.flatnonzero(~self.is_hidden)
        return np.asarray(shown[np.argsort(self.pts[shown], kind="stable")])

    def has_distinct_times(self) -> bool:
        """Whether a shown frame can be told by its presentation time."""
        return bool((np.diff(np.sort(self.pts[~self.is_hidden])) > 0).all())


@dataclass(frozen=True, slots=True)
class Run:
    """Packets `start` to `stop` (exclusive, in decode order), fed to a flushed decoder which is drained afterwards."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def first_packets(table: PacketTable, targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where decoding has to begin for each of the packets numbered `targets`.

    At the last keyframe, in decode order, which is shown no later than the target: pictures that follow a keyframe but
    are shown before it (open GOPs) lean on the one before. A file without such a keyframe is decoded from its first
    packet on.
    """
    keys = np.flatnonzero(table.is_key)
    first = np.zeros(len(targets), np.int64)
    for place, target in enumerate(targets):
        earlier = keys[: np.searchsorted(keys, target, side="right")]
        usable = earlier[table.pts[earlier] <= table.pts[target]]
        first[place] = usable[-1] if len(usable) else 0
    return first


def plan_runs(table: PacketTable, targets: NDArray[np.int64]) -> tuple[Run, ...]:
    """The runs, ascending and apart, that make the packets numbered `targets` decodable."""
    runs: list[Run] = []
    ordered = np.sort(targets)
    for start, stop in zip(first_packets(table, ordered), ordered + 1, strict=True):
        start, stop = int(start), int(stop)
        while runs and start <= runs[-1].stop:  # a leading picture may reach back behind several runs
            start = min(start, runs.pop().start)
        runs.append(Run(start, stop))
    return tuple(runs)
