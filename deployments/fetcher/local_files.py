"""`file:` URLs below the one folder that the operator allows. Blocking functions."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, InternalError, MediaNotReachable, shown
from deployments.fetcher.blob import MIB, OWN_LACKS, Bytes

_READ_BYTES = 8 * MIB
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
"""Non-blocking, so that opening a FIFO does not wait for its writer."""


class LocalFolder:
    """Files below `root`; whatever lies outside, or is not a plain file, looks as if it did not exist."""

    def __init__(self, root: Path | None) -> None:
        """None refuses every file."""
        self._root = None if root is None else root.resolve()

    def size_bytes(self, url: str) -> int:
        """Size of the file that `url` names. Raises `MediaNotReachable`."""
        with self._open(url) as descriptor:
            return os.fstat(descriptor).st_size

    def read_into(self, url: str, target: Bytes, deadline: Deadline) -> None:
        """Fill `target` (n,) from the start of the file that `url` names.

        Raises `MediaNotReachable`, `BadMedia` when the file has become shorter, and what `deadline.check()` raises.
        """
        with self._open(url) as descriptor:
            view = target.data
            while len(view):
                deadline.check()
                size = os.readv(descriptor, [view[:_READ_BYTES]])
                if size == 0:
                    raise BadMedia("became shorter while it was read")
                view = view[size:]

    @contextmanager
    def _open(self, url: str) -> Iterator[int]:
        """Symlinks are resolved first and must stay below the root; then the path is walked without following any, so
        that nothing which is swapped in between leads outside.
        """
        if self._root is None:
            said = "has a file: URL, which this server does not allow (see the setting media.local_root)"
            raise MediaNotReachable(said)
        try:
            descriptor = _walk(self._root, _path(url).resolve(strict=True).relative_to(self._root))
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno in OWN_LACKS:
                raise InternalError("could not be read: this server is out of file descriptors") from error
            raise _no_such_file(url) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _no_such_file(url)
            yield descriptor
        finally:
            os.close(descriptor)


def _no_such_file(url: str) -> MediaNotReachable:
    return MediaNotReachable(f"names no file below the server's media folder: {shown(url)}")


def _path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc.lower() not in ("", "localhost") or parts.query or parts.fragment:
        raise ValueError("a file: URL holds a path only")
    path = Path(os.fsdecode(unquote_to_bytes(parts.path)))
    if not path.is_absolute():
        raise ValueError("a file: URL's path is absolute")
    return path


def _walk(root: Path, inside: Path) -> int:
    folder = os.open(root, _FOLDER)
    try:
        for name in inside.parts[:-1]:
            below = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(inside.name or ".", _FILE, dir_fd=folder)
    finally:
        os.close(folder)
