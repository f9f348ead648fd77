"""Rank 0's storage: what is moved about here is moved about on every rank. Each holds what is its own."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from deployments.model.kv_cache.storage import Held, Storage
from deployments.model.parallel import messages


@dataclass(frozen=True, slots=True)
class NumberedHeld(Held):
    """The others' parts have this number there."""

    number: int


class LedStorage:
    """A `Storage`."""

    def __init__(self, own: Storage, tell: Callable[[object], None]) -> None:
        self._own = own
        self._tell = tell
        self._numbers = itertools.count()

    def copy(self, source: int, target: int, count: int) -> None:
        self._tell(messages.Copy(source, target, count))
        self._own.copy(source, target, count)

    def copy_state(self, source: int, target: int) -> None:
        self._tell(messages.CopyState(source, target))
        self._own.copy_state(source, target)

    def take_out(self, pages: list[int], states: list[int]) -> Held:
        number = next(self._numbers)
        self._tell(messages.TakeOut(number, pages, states))
        held = self._own.take_out(pages, states)
        return NumberedHeld(held.keys, held.states, number)

    def put_back(self, held: Held, pages: list[int], states: list[int]) -> None:
        assert isinstance(held, NumberedHeld)
        self._tell(messages.PutBack(held.number, pages, states))
        self._own.put_back(held, pages, states)

    def forget(self, held: Held) -> None:
        assert isinstance(held, NumberedHeld)
        self._tell(messages.Forget(held.number))

    def commit(self) -> None:
        """Each rank does so after its own pass."""
        self._own.commit()

    def discard(self) -> None:
        self._own.discard()
