"""MPEG transport streams as broadcasters scramble them: told by a field of each packet's header, which is always clear.

FFmpeg passes over it, and finds noise, or nothing, where the pictures should be.
"""

import numpy as np
from numpy.typing import NDArray

_GRIDS = ((188, 0), (192, 4), (204, 0))
"""(bytes, of the packet's start): plain, with times before each packet (Blu-ray, camcorders), with codes after it."""
_SYNC = 0x47
_LOOKED_AT = 20_000
"""Packets from the file's beginning on."""
_LEAST_SYNCED = 0.9


def is_scrambled(data: NDArray[np.uint8], pid: int) -> bool:
    """Whether nobody can read most packets of the track `pid` without a key. `data`: the file, uint8 (size,)."""
    for size, start in _GRIDS:
        packets = min((len(data) - start) // size, _LOOKED_AT)
        if packets < 1:
            continue
        heads = data[start : start + (packets - 1) * size + 4]
        sync, high, low, flags = (heads[byte::size][:packets] for byte in range(4))
        if np.mean(sync == _SYNC) < _LEAST_SYNCED:
            continue
        of_track = ((high.astype(np.uint16) & 0x1F) << 8 | low) == pid
        scrambled = flags[of_track & (flags & 0x10 > 0)] >> 6 > 0  # of those with a payload
        return bool(len(scrambled) and scrambled.mean() > 0.5)
    return False
