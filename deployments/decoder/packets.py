"""The packets of a video stream, by number: held while they are few, read from the file again when they are many.

A packet is an object of about 700 bytes beside its content, and a copy of that. Hundreds of thousands would take
more than the file itself, and few are wanted.
"""

from array import array
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from av.container import InputContainer

from deployments.core.deadline import Deadline
from deployments.decoder.plan import PacketTable, Run
from deployments.errors import BadMedia
from deployments.media.container import packets_of

HELD_BYTES = 128 * 2**20
"""Of one video's packets, all that they take."""
_OBJECT_BYTES = 700
_NO_TIME = -(2**63)


class Packets:
    """Filled in decode order, in one pass; then each can be had by its number, best in ascending order."""

    def __init__(
        self,
        stream: Any,
        reopen: Callable[[], AbstractContextManager[InputContainer]],
        label: str,
        deadline: Deadline,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        """`stream`: PyAV's, whose decoder decodes them. `reopen`: opens the file anew, for those that aren't held."""
        self._stream, self._reopen, self._label, self._deadline = stream, reopen, label, deadline
        self._room = held_bytes
        self._held: list[Any] = []
        self._pts, self._is_key, self._is_hidden = array("q"), bytearray(), bytearray()
        self._again: Generator[tuple[int, Any], None, None] | None = None
        self._next = 0
        self.first_pts: int | None = None
        """The earliest presentation time of one that is not discarded; None when none has any."""

    def __len__(self) -> int:
        return len(self._pts)

    def append(self, packet: Any) -> None:
        """The next one of the file."""
        self._room -= packet.size + _OBJECT_BYTES
        if self._room >= 0:
            self._held.append(packet)
        self._pts.append(_NO_TIME if packet.pts is None else packet.pts)
        self._is_key.append(packet.is_keyframe)
        self._is_hidden.append(packet.is_discard or self._is_invisible(packet))
        if packet.pts is not None and not packet.is_discard:
            self.first_pts = packet.pts if self.first_pts is None else min(self.first_pts, packet.pts)

    def __getitem__(self, number: int) -> Any:
        """Raises `BadMedia` where the file ends earlier when it is read again; `StageTimeout`, `WorkCancelled`."""
        if number < len(self._held):
            return self._held[number]
        if self._again is None or number < self._next:
            self.close()
            self._again = self._read_again()
        for found, packet in self._again:
            self._next = found + 1
            if found == number:
                return packet
        self._deadline.check()
        raise BadMedia("the file can't be read twice alike", param=self._label)

    def table(self) -> PacketTable | None:
        """None when one has no time."""
        pts = np.frombuffer(self._pts, np.int64)
        if (pts == _NO_TIME).any():
            return None
        is_key, is_hidden = (np.array(flags, np.uint8).astype(np.bool_) for flags in (self._is_key, self._is_hidden))
        return PacketTable(pts, is_key, is_hidden)

    def expect(self, runs: Sequence[Run]) -> None:
        """Nothing to do: they are at hand."""

    def close(self) -> None:
        """Close the file where it was opened again."""
        if self._again is not None:
            self._again.close()
        self._next = 0

    def _read_again(self) -> Generator[tuple[int, Any], None, None]:
        with self._reopen() as opened:
            own, number = opened.streams[self._stream.index], 0
            for packet in packets_of(opened, own):
                self._deadline.check()
                if packet.size:
                    packet.stream = self._stream
                    yield number, packet
                    number += 1

    def _is_invisible(self, packet: Any) -> bool:
        """Whether a VP8 frame is there to be referred to only; its header's fifth bit says so."""
        return bool(self._stream.codec_context.name == "vp8" and not bytes(packet)[0] >> 4 & 1)
