"""Undoing a `Content-Encoding` that a host used although it was asked not to. Bounded in memory, piece by piece."""

import zlib

from deployments.errors import BadMedia

PIECE_BYTES = 2**20
_ANY_WRAPPER = 32 + zlib.MAX_WBITS
"""Tells zlib to accept gzip's header as well as its own."""

ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})


class Inflater:
    """The bytes behind `gzip` or `deflate`. Errors are `BadMedia`."""

    def __init__(self) -> None:
        self._unpacker = zlib.decompressobj(_ANY_WRAPPER)
        self._pending = b""

    def feed(self, packed: bytes) -> None:
        """To be followed by `take` until that has nothing more."""
        if self._unpacker.eof:
            raise BadMedia("has a Content-Encoding that can't be undone: there are bytes after its end")
        self._pending += packed

    def take(self) -> bytes:
        """Up to `PIECE_BYTES` of what was fed, inflated; empty when more must be fed first. Blocking."""
        try:
            piece = self._unpacker.decompress(self._pending, PIECE_BYTES)
        except zlib.error as error:
            raise BadMedia("has a Content-Encoding that can't be undone: the compressed bytes are damaged") from error
        self._pending = self._unpacker.unconsumed_tail
        if self._unpacker.unused_data:
            raise BadMedia("has a Content-Encoding that can't be undone: there are bytes after its end")
        return piece

    def finish(self) -> None:
        """Raise `BadMedia` unless the end was reached."""
        if not self._unpacker.eof:
            raise BadMedia("has a Content-Encoding that can't be undone: the compressed bytes end early")
