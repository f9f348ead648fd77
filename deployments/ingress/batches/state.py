"""A batch as it lies in the folder: what was asked, how far it is, and what has been answered.

    batches/ID/asked.json     what was asked: never changes
    batches/ID/state.json     how far it is: written by the replica that holds the lock, and by no other
    batches/ID/lock           whoever works on it holds its lock, which goes with its process
    batches/ID/cancelled      there once somebody wants it to end
    batches/ID/output.jsonl   answers, and what failed, while it runs; files of the owner in the end
    batches/ID/errors.jsonl

Touches a disk: not for an event loop.
"""

import fcntl
import itertools
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from deployments.errors import NotFound, TooLarge, shown
from deployments.ingress.batches.folder import Folder, is_id, read_document, write_whole

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
ENDED: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class BatchAsked:
    id: str
    owner: str
    input_file_id: str
    endpoint: str
    completion_window: str
    created_at: int
    """Seconds since 1970, as all instants of a batch."""
    expires_at: int
    output_file_id: str
    """Of the file that there will be."""
    error_file_id: str
    metadata: dict[str, str] | None
    output_expires_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class BatchState:
    status: Status = "validating"
    total: int = 0
    completed: int = 0
    failed: int = 0
    at: dict[str, int] | None = None
    """When it came to a status, by its name."""
    errors: tuple[dict[str, Any], ...] = ()
    """Why nothing of it was done."""
    ending: Status | None = None
    """What it becomes once its files are in place; set with `finalizing`."""

    def counted(self, completed: int, failed: int) -> "BatchState":
        return replace(self, completed=completed, failed=failed)

    def moved(self, status: Status, **fields: Any) -> "BatchState":
        return replace(self, status=status, at={**(self.at or {}), status: int(time.time())}, **fields)


@dataclass(frozen=True, slots=True)
class Batch:
    asked: BatchAsked
    state: BatchState
    cancelled_at: int | None

    def document(self) -> dict[str, Any]:
        """As OpenAI's API has it."""
        asked, state, at = self.asked, self.state, dict(self.state.at or {})
        status: Status = state.status
        if self.cancelled_at is not None:
            at["cancelling"] = self.cancelled_at
            status = status if status in ENDED else "cancelling"
        ended = state.status in ENDED
        instants = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": asked.id,
            "object": "batch",
            "endpoint": asked.endpoint,
            "errors": {"object": "list", "data": list(state.errors)} if state.errors else None,
            "input_file_id": asked.input_file_id,
            "completion_window": asked.completion_window,
            "status": status,
            "output_file_id": asked.output_file_id if ended and state.completed else None,
            "error_file_id": asked.error_file_id if ended and state.failed else None,
            "created_at": asked.created_at,
            "expires_at": asked.expires_at,
            **{f"{name}_at": at.get(name) for name in instants},
            "request_counts": {"total": state.total, "completed": state.completed, "failed": state.failed},
            "metadata": asked.metadata,
        }


class BatchStore:
    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._ended: set[str] = set()
        """Batches that need not be read again to know it."""

    def create(self, asked: BatchAsked, max_batches: int) -> Batch:
        """Raises `TooLarge`. The oldest that have ended make way for it."""
        batches = self.all()
        ended = (batch.asked.id for batch in batches if batch.state.status in ENDED)
        for batch_id in itertools.islice(ended, max(0, len(batches) + 1 - max_batches)):
            shutil.rmtree(self._path(batch_id), ignore_errors=True)
        if sum(batch.state.status not in ENDED for batch in batches) >= max_batches:
            raise TooLarge(f"there are {max_batches} batches that have not ended: this server takes no more")
        path = self._path(asked.id)
        path.mkdir()
        write_whole(path / "asked.json", asdict(asked))
        return Batch(asked, BatchState(), None)

    def find(self, batch_id: str, owner: str) -> Batch:
        """Raises `NotFound`, for batches of others too."""
        batch = self.read(batch_id) if is_id(batch_id) else None
        if batch is None or batch.asked.owner != owner:
            raise NotFound(f"there is no batch {shown(batch_id)!r}", param="batch_id")
        return batch

    def read(self, batch_id: str) -> Batch | None:
        """None for one that is not there yet."""
        path = self._path(batch_id)
        asked = read_document(path / "asked.json")
        if asked is None:
            return None
        state = read_document(path / "state.json") or {}
        state["errors"] = tuple(state.get("errors", ()))
        cancelled = read_document(path / "cancelled")
        cancelled_at = None if cancelled is None else int(cancelled["at"])
        return Batch(BatchAsked(**asked), BatchState(**state), cancelled_at)

    def all(self) -> list[Batch]:
        """The oldest first."""
        found = [batch for batch_id in self._folder.batch_ids() if (batch := self.read(batch_id)) is not None]
        return sorted(found, key=lambda batch: (batch.asked.created_at, batch.asked.id))

    def unfinished(self) -> list[str]:
        """Ids, the oldest first."""
        known = set(self._folder.batch_ids())
        self._ended &= known
        found = [batch for batch_id in known - self._ended if (batch := self.read(batch_id)) is not None]
        self._ended |= {batch.asked.id for batch in found if batch.state.status in ENDED}
        waiting = [batch for batch in found if batch.state.status not in ENDED]
        return [batch.asked.id for batch in sorted(waiting, key=lambda batch: batch.asked.created_at)]

    def all_of(self, owner: str) -> list[Batch]:
        """The newest first."""
        return [batch for batch in reversed(self.all()) if batch.asked.owner == owner]

    def needed_files(self) -> set[str]:
        """Inputs of batches that have not ended."""
        return {batch.asked.input_file_id for batch in self.all() if batch.state.status not in ENDED}

    def cancel(self, batch: Batch) -> Batch:
        """Whoever works on it will see."""
        at = int(time.time())
        if batch.cancelled_at is None and batch.state.status not in ENDED:
            write_whole(self._path(batch.asked.id) / "cancelled", {"at": at})
            return replace(batch, cancelled_at=at)
        return batch

    def claim(self, batch_id: str) -> "Claim | None":
        """The right to work on a batch; None while another replica, or another task of this one, has it."""
        path = self._path(batch_id)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return Claim(path, descriptor, lambda: self.read(batch_id))

    def _path(self, batch_id: str) -> Path:
        return self._folder.batches / batch_id


class Claim:
    """Held by one at a time, until it is closed or its process ends."""

    def __init__(self, path: Path, descriptor: int, read: Callable[[], Batch | None]) -> None:
        self._path, self._descriptor, self._read = path, descriptor, read
        self.output, self.errors = path / "output.jsonl", path / "errors.jsonl"

    @property
    def batch(self) -> Batch:
        """As it is now."""
        batch = self._read()
        assert batch is not None
        return batch

    @property
    def cancelled(self) -> bool:
        return (self._path / "cancelled").exists()

    def save(self, state: BatchState) -> None:
        write_whole(self._path / "state.json", asdict(state))

    def close(self) -> None:
        os.close(self._descriptor)
