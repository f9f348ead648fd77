"""What has been answered, a line each, appended as it comes: the truth about how far a batch is.

A line that was torn by the death of its writer is cut off when the next one opens the journal.
"""

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import orjson

_REQUEST_ID = re.compile(rb'\{"id":"batch_req_[0-9a-f]+_(\d+)"')


def entry(batch_id: str, number: int, custom_id: str | None, **fields: Any) -> bytes:
    """A line of a batch's files; `fields`: `response` or `error`."""
    said = {"id": request_id(batch_id, number), "custom_id": custom_id, "response": None, "error": None, **fields}
    return orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE)


def request_id(batch_id: str, number: int) -> str:
    """Of the request in the line `number` of a batch: the same after a restart."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{number}"


class Journal:
    """One writer at a time. Opening and closing touch a disk: not for an event loop."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError`."""
        self.numbers: set[int] = set()
        """Lines of the input that are in it."""
        self._file = path.open("a+b", buffering=0)
        self._size = self._recover(path)
        self._file.truncate(self._size)
        self._turn = asyncio.Lock()

    async def append(self, number: int, line: bytes) -> None:
        """Raises `OSError`; nothing of the line is there then."""
        async with self._turn:
            await asyncio.shield(asyncio.to_thread(self._write, line))
            self.numbers.add(number)

    def sync(self) -> None:
        """From here on it survives the machine's end too."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _write(self, line: bytes) -> None:
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(line)

    def _recover(self, path: Path) -> int:
        """Bytes of the whole lines."""
        size = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                size += len(line)
                if found := _REQUEST_ID.match(line):
                    self.numbers.add(int(found[1]))
        return size
