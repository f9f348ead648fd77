"""Bodies of `multipart/form-data` whose files are too large to be held: told part by part, as the bytes come.

Never holds more than a chunk and the longest line that may end a part.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from deployments.errors import BadRequest
from deployments.ingress.http.form import MAX_FIELDS, MAX_HEAD_BYTES, part_names


@dataclass(frozen=True, slots=True)
class PartBegins:
    """`filename` is None for a field."""

    name: str
    filename: str | None


FormEvent = PartBegins | bytes
"""A part begins, or a piece of its content."""


async def read_parts(chunks: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[FormEvent]:
    """Raises `BadRequest` for what is no form, and for one that ends too early."""
    source = _Buffer(chunks)
    if not (await source.until(b"--" + boundary, MAX_HEAD_BYTES)):
        raise BadRequest("the form has no parts")
    mark = b"\r\n--" + boundary
    for _ in range(MAX_FIELDS):
        ending = await source.take(2)
        if ending == b"--":
            async for _ in chunks:  # what follows says nothing; the connection wants it read
                pass
            return
        head = await source.until(b"\r\n\r\n", MAX_HEAD_BYTES) if ending == b"\r\n" else None
        if head is None:
            raise BadRequest("a part of the form has no name")
        yield PartBegins(*part_names(head))
        async for piece in source.pieces(mark):
            yield piece
    raise BadRequest(f"the form has more than {MAX_FIELDS} parts")


class _Buffer:
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._held = bytearray()

    async def take(self, count: int) -> bytes:
        while len(self._held) < count:
            await self._more()
        return self._cut(count)

    async def until(self, mark: bytes, at_most: int) -> bytes | None:
        """What comes before `mark`, which is passed too, with the mark; None if it is longer than `at_most`."""
        while (at := self._held.find(mark)) < 0:
            if len(self._held) > at_most:
                return None
            await self._more()
        return self._cut(at + len(mark))

    async def pieces(self, mark: bytes) -> AsyncIterator[bytes]:
        """The content up to `mark`, which is passed too."""
        while (at := self._held.find(mark)) < 0:
            sure = len(self._held) - len(mark) + 1
            if sure > 0:
                yield self._cut(sure)
            await self._more()
        if at:
            yield self._cut(at)
        del self._held[: len(mark)]

    def _cut(self, count: int) -> bytes:
        piece = bytes(memoryview(self._held)[:count])
        del self._held[:count]
        return piece

    async def _more(self) -> None:
        chunk = await anext(self._chunks, None)
        if chunk is None:
            raise BadRequest("the form is not complete")
        self._held += chunk
