"""One request's media at the encoder: what is still to encode of them, and what has come of the rest."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from deployments.core.deadline import Deadline
from deployments.errors import SluiceError, StageTimeout, WorkCancelled
from deployments.model.multimodal.items import Item
from deployments.model.multimodal.request_media import EncodedRows
from deployments.types import MediaKind, StageName


class EncodeWork:
    """Belongs to the loop's thread from its submission on; other threads wait for `done` and may cancel `deadline`."""

    def __init__(self, items: Sequence[Item], deadline: Deadline) -> None:
        self.items = deque(items)
        """Still to encode, in the prompt's order."""
        self.values = sum(item.values for item in items)
        """How many numbers they had when they came."""
        self.deadline = deadline
        self.outputs: dict[MediaKind, list[EncodedRows]] = {}
        """Of the items that have been encoded, on the host."""
        self.encoded: set[str] = set()
        """Labels of the items that a tower had to look at."""
        self.began: float | None = None
        self.ended = 0.0
        self.done: Future[SluiceError | None] = Future()
        """Its result: None when all outputs are there, else why they will never be."""

    @property
    def values_left(self) -> int:
        return sum(item.values for item in self.items)

    @property
    def nbytes(self) -> int:
        """Held on the host."""
        outputs = itertools.chain.from_iterable(self.outputs.values())
        return sum(item.nbytes for item in self.items) + sum(rows.nbytes for rows in outputs)

    @property
    def seconds(self) -> float:
        """From its first item to its last."""
        return 0.0 if self.began is None else self.ended - self.began

    def given_up(self) -> SluiceError | None:
        """Why nobody waits for it any more; None while somebody does."""
        if self.deadline.cancelled:
            return WorkCancelled("the request was stopped")
        if self.deadline.remaining_s() <= 0:
            return StageTimeout(StageName.ENCODE)
        return None

    def take(self, values: int, cost: Callable[[Item], int], *, at_least_one: bool) -> tuple[list[Item], int]:
        """The next items, of so many values in all, which are encoded now; and their values."""
        taken: list[Item] = []
        left = values
        while self.items and ((at_least_one and not taken) or cost(self.items[0]) <= left):
            left -= cost(self.items[0])
            taken.append(self.items.popleft())
        return taken, values - left

    def keep(self, items: Sequence[Item], encoded: Sequence[EncodedRows]) -> None:
        """What has come of items that were taken; let go of on the device."""
        for item, rows in zip(items, encoded, strict=True):
            self.outputs.setdefault(item.kind, []).append(rows.cpu())
            if item.encoded:
                self.encoded.update(item.labels)

    def finish(self) -> None:
        self.ended = time.monotonic()
        self.done.set_result(None)

    def fail(self, error: SluiceError) -> None:
        """Let go of everything."""
        for item in self.items:
            if item.key is not None:
                item.key.cancel()
        self.items.clear()
        self.outputs.clear()
        self.done.set_result(error)
