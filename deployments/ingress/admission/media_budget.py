"""The bytes of media that admitted requests may hold together, whichever model they are for.

Each model has a lane of its own for requests with media, and all of them fill one object store. The lane whose next
request waits for bytes is served before any other takes some: so a large request for one model is not starved by small
ones for another. Must be used from one event loop.
"""

from collections import OrderedDict
from collections.abc import Callable

from deployments.ingress.admission.background import BACKGROUND_SHARE

Look = Callable[[], None]
"""A lane's own: let in whoever fits now, and say by `wait` or `leave_line` whether its next one waits for bytes."""


class MediaBudget:
    """One for an ingress replica."""

    def __init__(self, max_bytes: int, changed: Callable[[int, int], None] | None = None) -> None:
        """`changed(held_bytes, max_bytes)` is told how many bytes are held of how many, whenever that changes."""
        self._max_bytes = max_bytes
        self._held_bytes = self._background_bytes = 0
        self._changed = changed or (lambda held_bytes, max_bytes: None)
        self._lanes: list[Look] = []
        self._line: OrderedDict[Look, None] = OrderedDict()
        self._changed(0, max_bytes)

    @property
    def max_bytes(self) -> int:
        return self._max_bytes

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    def add_lane(self, look: Look) -> None:
        """A lane that takes of these bytes; it looks when some have come back."""
        self._lanes.append(look)

    def set_max_bytes(self, max_bytes: int) -> None:
        """The share of this replica has changed; takes effect for whoever comes next."""
        self._max_bytes = max_bytes
        self._changed(self._held_bytes, max_bytes)
        self.look()

    def fits(self, lane: Look, size_bytes: int, *, background: bool = False) -> bool:
        """Whether a request of `lane` may take so much now. What is more than all of it fits when nothing is held."""
        if size_bytes == 0:
            return True
        if self._line and (background or next(iter(self._line)) != lane):
            return False
        if self._held_bytes == 0:
            return True
        if background and self._background_bytes + size_bytes > BACKGROUND_SHARE * self._max_bytes:
            return False
        return self._held_bytes + size_bytes <= self._max_bytes

    def take(self, lane: Look, size_bytes: int, *, background: bool) -> None:
        """A request of `lane` is let in: the lane's next one waits behind those of others."""
        self.recount(size_bytes, background=background)
        if lane in self._line:
            self._line.move_to_end(lane)

    def recount(self, more_bytes: int, *, background: bool) -> None:
        """A request holds so many more, or fewer: then `look` shall follow, once the lane has done its own."""
        self._held_bytes += more_bytes
        self._background_bytes += more_bytes if background else 0
        self._changed(self._held_bytes, self._max_bytes)

    def wait(self, lane: Look) -> None:
        """The next request of `lane` waits for bytes."""
        self._line.setdefault(lane)

    def leave_line(self, lane: Look) -> None:
        """It does not, or not any more."""
        if lane in self._line:
            was_first = next(iter(self._line)) == lane
            del self._line[lane]
            if was_first:
                self.look()

    def look(self) -> None:
        """Each lane looks, in the order of the line: who is still first after it keeps the others from what is left."""
        for look in [*self._line, *(lane for lane in self._lanes if lane not in self._line)]:
            look()
