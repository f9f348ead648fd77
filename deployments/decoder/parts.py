"""One video over several decoders: its runs of packets don't lean on each other, so others may decode some of them.

The decoder that was asked for the video gives parts away and puts their frames among its own. Only it knows the plan,
which takes reading the file; its callers ask for a video and get one, and needn't know whether it was decoded in parts.
That takes one more copy of the others' frames, which is little beside decoding them.

It decodes from the front of the plan, run by run, while others are given shares from its back (guided self-scheduling):
an even share first, then of what is left. Parts are only for decoders with nothing to do: one that is asked says at
once whether it takes the part, and never lets one wait. Whatever goes wrong with a part is not an error: it is decoded
here, or by another one.

Knows no Ray: `PartSource` is the stage's own door in the application, another stage in tests.
"""

import asyncio
import concurrent.futures
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.decoder.backlog import VideoWork
from deployments.decoder.limits import Limits
from deployments.decoder.plan import Run
from deployments.decoder.stack import FrameStack
from deployments.errors import SluiceError
from deployments.types import DecodedPart, PartTask

PART_MEGAPIXELS = 400.0
"""Least that is given away: half a second of 1080p, to which another decoder's opening of the file adds a tenth."""
_MOST_PARTS = 5
"""Times the least that is given away at once. Whoever took it is asked again then: others may be waiting for it."""
_AGAIN_S = 0.5
"""After a part was refused or lost, until another decoder is asked in its place."""
_ANSWER_S = 0.5
"""What the answer to an offer may take once there is nothing else to do here."""
_LOOK_S = 0.05
"""Between two looks at the deadline while others decode."""

Payload = dict[str, NDArray[np.uint8]]


class PartSource(Protocol):
    """Other decoders that have one video at hand."""

    async def decode(
        self, part: PartTask, deadline: Deadline, taken: Callable[[], None]
    ) -> tuple[DecodedPart, Payload] | None:
        """Its frames; None at once where nobody has a place free, else `taken()` at once. Raises `SluiceError`s."""
        ...


@dataclass(slots=True)
class Helpers:
    """Who may decode parts of one video, and what came of it."""

    source: PartSource
    loop: asyncio.AbstractEventLoop
    """On which `source` works."""
    most: int
    """Parts under way at once."""
    least_megapixels: float = PART_MEGAPIXELS
    decoded: int = 0
    """Parts whose frames came."""
    returned: int = 0
    """Parts that were not taken, or lost."""


@dataclass(slots=True, eq=False)
class _Given:
    """A part that another decoder was asked for."""

    runs: list[Run]
    slots: NDArray[np.int64]
    began: float
    taken: bool = False
    """Written by the event loop."""
    future: "concurrent.futures.Future[tuple[DecodedPart, Payload] | None]" = field(init=False)


class SharedRuns:
    """The runs of one video that are decoded here, one after the other; in between, frames of others are put in place.

    Belongs to the thread that decodes the video. Ends when all frames that will come have come.
    """

    def __init__(
        self,
        helpers: Helpers,
        runs: Sequence[Run],
        targets: NDArray[np.int64],
        stack: FrameStack,
        limits: Limits,
        size: tuple[int, int],
        deadline: Deadline,
        clip_frames: int,
    ) -> None:
        """`targets`: packet numbers of the frames in the slots of `stack`. `size`: height and width of coded frames.
        `clip_frames`: see `PartTask`."""
        self._helpers = helpers
        self._targets = targets
        self._clip_frames = clip_frames
        self._stack = stack
        self._deadline = deadline
        self._packet_megapixels = size[0] * size[1] / 1e6
        self._left = deque(runs)
        self._given: list[_Given] = []
        self._askable_from = [0.0] * helpers.most
        """For each part that may be given away and isn't: since when, by the monotonic clock."""
        self._here = _Here(limits.work, sum(map(len, runs)), self._packet_megapixels)

    def __iter__(self) -> Iterator[Run]:
        """Raises at the deadline, as `stack` does for frames beyond its limits."""
        while True:
            self._collect()
            self._give()
            if self._left:
                run = self._left.popleft()
                yield run
                self._here.decoded += len(run)
            elif self._given:
                self._wait()
            else:
                return

    def close(self) -> None:
        """End what others do."""
        for given in self._given:
            given.future.cancel()

    def _give(self) -> None:
        now = time.monotonic()
        askable = sum(since <= now for since in self._askable_from)
        while askable and (share := self._share(askable)):
            self._askable_from.remove(min(self._askable_from))
            askable -= 1
            self._here.change(-sum(map(len, share)))
            inside = [(run.start <= self._targets) & (self._targets < run.stop) for run in share]
            given = _Given(share, np.flatnonzero(np.any(inside, axis=0)), now)
            given.future = asyncio.run_coroutine_threadsafe(self._asked(given), self._helpers.loop)
            self._given.append(given)

    def _share(self, askable: int) -> list[Run]:
        """What one of so many others is to have; empty where it wouldn't pay. One run at least stays here."""
        left = sum(map(len, self._left))
        least = self._helpers.least_megapixels / self._packet_megapixels
        others = min(askable, int(left / least) - 1, len(self._left) - 1)
        if others < 1:
            return []
        wanted, share, size = min(left / (others + 1), _MOST_PARTS * least), list[Run](), 0
        while len(self._left) > 1 and (not share or size + len(self._left[-1]) / 2 <= wanted):
            share.append(self._left.pop())
            size += len(share[-1])
        return share[::-1]

    async def _asked(self, given: _Given) -> tuple[DecodedPart, Payload] | None:
        def taken() -> None:
            given.taken = True

        packets = tuple(int(number) for number in self._targets[given.slots])
        part = PartTask(packets, tuple((run.start, run.stop) for run in given.runs), self._clip_frames)
        try:
            return await self._helpers.source.decode(part, self._deadline, taken)
        except SluiceError:
            return None

    def _collect(self) -> None:
        for given in [given for given in self._given if given.future.done()]:
            answer = None if given.future.cancelled() else given.future.result()
            if answer is not None and self._stack.put_part(given.slots, *answer):
                self._given.remove(given)
                self._askable_from.append(0.0)
                self._helpers.decoded += 1
            else:
                self._take_back(given)

    def _take_back(self, given: _Given) -> None:
        given.future.cancel()
        self._given.remove(given)
        self._askable_from.append(time.monotonic() + _AGAIN_S)
        self._left = deque(sorted([*self._left, *given.runs], key=lambda run: run.start))
        self._here.change(sum(map(len, given.runs)))
        self._helpers.returned += 1

    def _wait(self) -> None:
        self._deadline.check()
        futures = [given.future for given in self._given]
        concurrent.futures.wait(futures, _LOOK_S, concurrent.futures.FIRST_COMPLETED)
        late = time.monotonic() - _ANSWER_S
        for given in [given for given in self._given if not given.taken and given.began < late]:
            if not given.future.done():
                self._take_back(given)


class _Here:
    """Which share of a video's work is done here: what others decode is theirs to count."""

    def __init__(self, work: VideoWork, packets: int, packet_megapixels: float) -> None:
        self._work, self._packet_megapixels = work, packet_megapixels
        self._packets = packets
        self.decoded = 0
        """Packets."""
        work.share_left = self._share_left

    def change(self, packets: int) -> None:
        """So many more are decoded here."""
        self._packets += packets
        self._work.megapixels = self._packets * self._packet_megapixels

    def _share_left(self) -> float:
        return 1.0 - self.decoded / max(1, self._packets)
