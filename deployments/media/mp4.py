"""What an MP4 says of how many samples it has, looked at before FFmpeg makes a table of that many."""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deployments.errors import BadMedia

_INDEX_BOXES = frozenset({b"moov", b"moof"})
_COUNT_AFTER = {b"trun": 8, b"stsz": 12}
"""Boxes that count samples, and where the count stands after the box's name."""
_LONG_SIZE = b"\0\0\0\1"
"""Instead of a box's size: eight bytes after its name hold it."""
_MAX_SAMPLES_PER_BYTE = 8
"""Old QuickTime files count up to six samples of compressed sound in a byte; everything else has a byte for each."""


def check_sample_counts(data: NDArray[np.uint8], label: str) -> None:
    """Raise `BadMedia` when the file `data`, uint8 of shape (size,), counts far more samples than it has bytes.

    A box of twenty bytes may claim 2^32 of them, for which FFmpeg would take gigabytes.
    """
    samples = 0
    for index in _index_boxes(data):
        for name, after in _COUNT_AFTER.items():
            at = index.find(name)
            while at >= 0:
                start = at + after + (8 if index[at - 4 : at] == _LONG_SIZE else 0)
                samples += int.from_bytes(index[start : start + 4], "big")
                at = index.find(name, at + 4)
        if samples > _MAX_SAMPLES_PER_BYTE * len(data):
            raise BadMedia("the file is damaged: it counts more samples than its bytes can hold", param=label)


def _index_boxes(data: NDArray[np.uint8]) -> Iterator[bytes]:
    """The contents of the file's outermost boxes that hold no media."""
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8].tobytes())
        if size == 1 and at + 16 <= len(data):
            size = int.from_bytes(data[at + 8 : at + 16].tobytes(), "big")
        end = at + size if size >= 8 else len(data)
        if name in _INDEX_BOXES:
            yield data[at:end].tobytes()
        at = end
