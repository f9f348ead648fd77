"""Files that clients leave here, and those that batches leave for them. Each belongs to one owner alone."""

import math
import os
import secrets
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from deployments.errors import NotFound, TooLarge, shown
from deployments.ingress.batches.folder import Folder, is_id, new_id, read_document, write_whole

Purpose = Literal["batch", "batch_output"]
ROOM_EVERY_BYTES = 16 * 2**20
"""How much of an upload is written before the folder's room is looked at again."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    id: str
    owner: str
    filename: str
    purpose: Purpose
    bytes: int
    created_at: int
    """Seconds since 1970."""
    expires_at: int | None = None
    """None: it stays until it is deleted."""

    def document(self) -> dict[str, Any]:
        """As OpenAI's API has it; the owner stays here."""
        fields = asdict(self)
        del fields["owner"]
        return {**fields, "object": "file", "status": "processed", "status_details": None}


class FileStore:
    def __init__(
        self,
        folder: Folder,
        max_file_bytes: int,
        max_bytes: int,
        max_files: int,
        max_age_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`max_bytes`, `max_files`: of all owners together. `clock`: seconds since 1970."""
        self._folder = folder
        self._max_file_bytes, self._max_bytes, self._max_files = max_file_bytes, max_bytes, max_files
        self._max_age_s, self._clock = max_age_s, clock

    def receive(self) -> "Upload":
        return Upload(self, self._folder.files / f"{secrets.token_hex(12)}.part", self._max_file_bytes)

    def check_room(self) -> None:
        """Raises `TooLarge`."""
        size, count = self._folder.used()
        if size > self._max_bytes:
            raise TooLarge(f"the files of this server take more than the {self._max_bytes} bytes that they may take")
        if count > self._max_files:
            raise TooLarge(f"there are more than the {self._max_files} files that this server keeps")

    def add(
        self,
        file_id: str,
        content: Path,
        owner: str,
        filename: str,
        purpose: Purpose,
        expires_after_s: float | None = None,
    ) -> StoredFile:
        """`content` becomes the file `file_id`; once more, where that was cut off, does no harm."""
        data = self.path(file_id)
        if content.exists():
            content.replace(data)
        ages = [age for age in (expires_after_s, self._max_age_s) if age is not None]
        now = int(self._clock())
        expires_at = now + math.ceil(min(ages)) if ages else None
        stored = StoredFile(file_id, owner, filename, purpose, data.stat().st_size, now, expires_at)
        write_whole(self._description(file_id), asdict(stored))
        return stored

    def find(self, file_id: str, owner: str) -> StoredFile:
        """Raises `NotFound`, for files of others too."""
        fields = read_document(self._description(file_id)) if is_id(file_id) else None
        stored = None if fields is None else StoredFile(**fields)
        if stored is None or stored.owner != owner or self._is_over(stored):
            raise NotFound(f"there is no file {shown(file_id)!r}", param="file_id")
        return stored

    def all_of(self, owner: str) -> list[StoredFile]:
        """The newest first."""
        files = [file for file in self._all() if file.owner == owner and not self._is_over(file)]
        return sorted(files, key=lambda file: (file.created_at, file.id), reverse=True)

    def delete(self, file_id: str, owner: str) -> None:
        """Raises `NotFound`. Whoever reads it now reads on."""
        self.find(file_id, owner)
        self._remove(file_id)

    def sweep(self, needed: Container[str]) -> None:
        """Files whose time is over go, but for those whose ids are `needed`."""
        for file in self._all():
            if self._is_over(file) and file.id not in needed:
                self._remove(file.id)

    def path(self, file_id: str) -> Path:
        """Where its bytes lie."""
        return self._folder.files / f"{file_id}.data"

    def _all(self) -> Iterator[StoredFile]:
        found = (read_document(path) for path in self._folder.files.glob("*.json"))
        return (StoredFile(**fields) for fields in found if fields is not None)

    def _is_over(self, file: StoredFile) -> bool:
        return file.expires_at is not None and self._clock() >= file.expires_at

    def _remove(self, file_id: str) -> None:
        self._description(file_id).unlink(missing_ok=True)
        self.path(file_id).unlink(missing_ok=True)

    def _description(self, file_id: str) -> Path:
        return self._folder.files / f"{file_id}.json"


class Upload:
    """A file on its way in; what is not kept by the end of the `with` block goes."""

    def __init__(self, store: FileStore, path: Path, max_bytes: int) -> None:
        self._store, self._path, self._max_bytes = store, path, max_bytes
        self._size = self._looked_at = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> "Upload":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Raises `TooLarge`."""
        self._size += len(data)
        if self._size > self._max_bytes:
            raise TooLarge(f"the file is larger than the {self._max_bytes} bytes that are allowed", param="file")
        if self._file is None:
            self._file = self._path.open("wb")
            self._store.check_room()
        self._file.write(data)
        if self._size - self._looked_at > ROOM_EVERY_BYTES:
            self._looked_at = self._size
            self._store.check_room()

    def keep(self, owner: str, filename: str, expires_after_s: float | None = None) -> StoredFile:
        self.write(b"")
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._store.check_room()
        return self._store.add(new_id("file-"), self._path, owner, filename, "batch", expires_after_s)
