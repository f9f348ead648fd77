"""What fetching yields, wherever it came from, and how large it may be."""

import errno
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deployments.errors import TooLarge
from deployments.types import MediaKind, RemoteFile

MIB = 2**20
OWN_LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""What the system says when this machine, not the media's host or the client, is at fault."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes and where they came from."""

    data: Bytes
    """(n,), read-only: several requests may share it."""
    source: str | None
    """The URL after redirects, without query; None for `data:`."""
    digest: str = ""
    """SHA-256 of `data`, hexadecimal; empty where nobody keeps anything by it."""
    remote: RemoteFile | None = None
    """Set where `data` is only the beginning of a file that stays with its host; then without a digest."""


@dataclass(frozen=True, slots=True)
class ByteLimit:
    """The most bytes that an item of this kind may have."""

    kind: MediaKind | Literal["embeddings"]
    max_bytes: int

    def check(self, size_bytes: int) -> None:
        """Raise `TooLarge` when `size_bytes` is over the limit."""
        if size_bytes > self.max_bytes:
            raise TooLarge(
                f"is too large: {self.kind} items may have {self.max_bytes} bytes ({self.max_bytes / MIB:.4g} MiB)"
            )


def lazy_buffer(size_bytes: int) -> Bytes:
    """(size_bytes,), uninitialised: memory is taken from the system page by page, as it is written."""
    return np.empty(size_bytes, np.uint8)
