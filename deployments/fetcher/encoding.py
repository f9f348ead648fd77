"""Undoing a `Content-Encoding` that a host used although it was asked not to. Blocking; bounded in memory and time."""

import zlib

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia
from deployments.fetcher.blob import ByteLimit, Bytes
from deployments.fetcher.budget import lazy_buffer

_SLICE_BYTES = 2**20
_ANY_WRAPPER = 32 + zlib.MAX_WBITS
"""Tells zlib to accept gzip's header as well as its own."""

ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})


def inflate(packed: Bytes, limit: ByteLimit, deadline: Deadline) -> Bytes:
    """The bytes behind `gzip` or `deflate`, as a new array (n,) uint8.

    Stops at the limit, so that a small body which inflates without end costs no more than an honest one. Raises
    `TooLarge`, `BadMedia`, and what `deadline.check()` raises.
    """
    unpacker = zlib.decompressobj(_ANY_WRAPPER)
    room = lazy_buffer(limit.max_bytes)
    view = room.data
    pending = packed.data
    size = 0
    while not unpacker.eof:
        deadline.check()
        try:
            piece = unpacker.decompress(pending[:_SLICE_BYTES], _SLICE_BYTES)
        except zlib.error as error:
            raise BadMedia("has a Content-Encoding that can't be undone: the compressed bytes are damaged") from error
        pending = pending[min(len(pending), _SLICE_BYTES) - len(unpacker.unconsumed_tail) - len(unpacker.unused_data) :]
        if not piece and not pending and not unpacker.eof:
            raise BadMedia("has a Content-Encoding that can't be undone: the compressed bytes end early")
        limit.check(size + len(piece))
        view[size : size + len(piece)] = piece
        size += len(piece)
    if pending:
        raise BadMedia("has a Content-Encoding that can't be undone: there are bytes after its end")
    return room[:size]
