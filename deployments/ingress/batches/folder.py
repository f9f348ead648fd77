"""The folder in which files and batches are kept, for all ingress replicas: what is where, and how it is written.

    files/ID.json          a file's description: a file is there once its description is
    files/ID.data          its bytes
    files/*.part           uploads under way
    batches/ID/            see `state`

Everything here touches a disk: not for an event loop.
"""

import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson

STALE_S = 24 * 3600.0
"""After which an upload that has not ended never will."""
_ID = re.compile(r"(file-|batch_)[0-9a-f]{24}")


def new_id(kind: Literal["file-", "batch_"]) -> str:
    return f"{kind}{secrets.token_hex(12)}"


def is_id(text: str) -> bool:
    """Whether `text` may be part of a path."""
    return _ID.fullmatch(text) is not None


def write_whole(path: Path, document: object) -> None:
    """All or nothing, also when the machine stops meanwhile."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(6)}.new")
    with part.open("wb") as file:
        file.write(orjson.dumps(document))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_document(path: Path) -> dict[str, Any] | None:
    """What `write_whole` wrote; None where there is nothing."""
    try:
        document: dict[str, Any] = orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return document


class Folder:
    def __init__(self, root: Path) -> None:
        """Raises `OSError` when it can't be written to."""
        self.files, self.batches = root / "files", root / "batches"
        for folder in (self.files, self.batches):
            folder.mkdir(parents=True, exist_ok=True)
        stale_before = time.time() - STALE_S
        for path in self.files.glob("*.part"):
            if path.stat().st_mtime < stale_before:
                path.unlink(missing_ok=True)

    def used(self) -> tuple[int, int]:
        """Bytes of all files, uploads and answers under way included, and the number of files."""
        sizes = [_size(path) for path in self.files.iterdir() if path.suffix in (".data", ".part")]
        answers = sum(_size(path) for path in self.batches.glob("*/*.jsonl"))
        return sum(sizes) + answers, len(sizes)

    def batch_ids(self) -> Iterator[str]:
        return (path.name for path in self.batches.iterdir() if is_id(path.name))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # gone since it was listed
        return 0
