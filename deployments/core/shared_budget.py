"""Room that is taken piece by piece, as it is needed, by holders who may be hostile to each other.

Room that is taken for a promise (a declared length) can be held by whoever promises. Room that is taken as bytes arrive
can end in a deadlock: everybody holds a part and waits for the rest. So a reserve is kept which only the oldest lease
may use (the banker's algorithm, for one): it always ends, and then the next one is the oldest. And no holder, a client
or a media host, may have more than a share of the rest, however many leases it has.
"""

import asyncio
import weakref
from collections import Counter, OrderedDict
from types import TracebackType
from typing import Any

from numpy.typing import NDArray


class Share:
    """Grows while its `with` block lasts; given back at its end, or when the array it was kept for is freed."""

    __slots__ = ("_budget", "held", "holders")

    def __init__(self, budget: "SharedBudget", holders: tuple[str, ...]) -> None:
        self._budget = budget
        self.holders = holders
        self.held = 0

    def __enter__(self) -> "Share":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    async def grow(self, amount: int) -> None:
        """Wait until there is room for so much more."""
        await self._budget.take(self, amount)

    def release(self) -> None:
        """Give back all of it; a second time changes nothing."""
        self._budget.close(self, kept=0)

    def keep_for(self, array: NDArray[Any]) -> None:
        """The array's bytes stay taken, as nobody's in particular, until its memory is freed; the rest goes back."""
        owner = array if array.base is None else array.base
        weakref.finalize(owner, self._budget.give_back_from_any_thread, array.nbytes).atexit = False
        self._budget.close(self, kept=array.nbytes)


class SharedBudget:
    """`capacity` of anything that can be counted. Used on one event loop."""

    def __init__(self, capacity: int, *, reserve: int = 0, share: float = 0.5) -> None:
        """`reserve`: what of `capacity` only the oldest lease may use. `share`: of the rest, for any one holder."""
        self._capacity = max(capacity, reserve)
        self._common = self._capacity - reserve
        self._most_of_one = max(1, int(self._common * share))
        self._used = 0
        self._of_holder: Counter[str] = Counter()
        self._open: OrderedDict[Share, None] = OrderedDict()  # the oldest stands first
        self._waiting: OrderedDict[Share, tuple[int, asyncio.Future[None]]] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def used(self) -> int:
        return self._used

    def open(self, *holders: str) -> Share:
        """A lease that holds nothing yet, on the account of `holders`."""
        self._loop = asyncio.get_running_loop()
        lease = Share(self, holders)
        self._open[lease] = None
        return lease

    async def take(self, lease: Share, amount: int) -> None:
        """See `Share.grow`. More than there can ever be is had when nobody else holds anything."""
        if self._fits(lease, amount):
            self._grant(lease, amount)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[lease] = amount, turn
        try:
            await turn
        finally:
            self._waiting.pop(lease, None)

    def close(self, lease: Share, *, kept: int) -> None:
        """`lease` ends; `kept` of what it held stays taken."""
        if lease in self._open:
            del self._open[lease]
            for holder in lease.holders:
                self._of_holder[holder] -= lease.held
                if not self._of_holder[holder]:
                    del self._of_holder[holder]
            self._give_back(lease.held - kept)
            lease.held = 0

    def give_back_from_any_thread(self, amount: int) -> None:
        """Arrays are freed where their last user lets go of them, which may be after the loop has ended."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._give_back, amount)

    def _give_back(self, amount: int) -> None:
        self._used -= amount
        for lease, (wanted, turn) in list(self._waiting.items()):
            if not turn.done() and self._fits(lease, wanted):
                del self._waiting[lease]
                self._grant(lease, wanted)
                turn.set_result(None)

    def _fits(self, lease: Share, amount: int) -> bool:
        if lease is next(iter(self._open)):
            return self._used + amount <= self._capacity or self._used == lease.held
        return self._used + amount <= self._common and all(
            self._of_holder[holder] + amount <= self._most_of_one for holder in lease.holders
        )

    def _grant(self, lease: Share, amount: int) -> None:
        self._used += amount
        lease.held += amount
        for holder in lease.holders:
            self._of_holder[holder] += amount
