"""What a way of decoding frames looks like to the rest of the room."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.decoder.demux import VideoFile
from deployments.decoder.limits import Limits
from deployments.decoder.parts import Helpers
from deployments.decoder.stack import FrameStack


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """The frames of a file in display order; F is their number."""

    times_s: NDArray[np.float64]
    """(F,) ascending, since the first frame."""
    packets: NDArray[np.int64] | None
    """(F,) which packet of the file holds the frame; None when that is not known and frames can only be counted."""
    starts_s: float
    """When the first frame is shown, by the file's own clock."""


class Backend(Protocol):
    """Stateless: one object serves all threads of a replica."""

    name: str

    def decode(
        self,
        video: VideoFile,
        index: FrameIndex,
        wanted: NDArray[np.int64],
        stack: FrameStack,
        limits: Limits,
        deadline: Deadline,
        helpers: Helpers | None = None,
    ) -> int:
        """Put frame `wanted[k]` of `index` into slot k of `stack`, upright RGB; slots of lost frames stay empty.

        Returns how many frames the codec decoded here. `helpers` may be asked to decode some of it; a backend need not.
        Raises `TooLarge` before it would exceed `limits`, `InternalError`
        when the machine lacks memory, `UnsupportedCodec` when it has no decoder, `StageTimeout` or `WorkCancelled`
        between packets.
        """
        ...
