"""The API keys of this server: those of the configuration, and those of a file that may change while it runs."""

import hmac
import logging
from pathlib import Path

from deployments.config import IngressConfig

logger = logging.getLogger("sluice.keys")


class ApiKeys:
    """A file holds one key a line; empty lines and lines that begin with `#` say nothing."""

    def __init__(self, config: IngressConfig) -> None:
        """Raises `OSError` when the file can't be read, `ValueError` when no key is in it."""
        self._own = tuple(key.get_secret_value().encode() for key in config.api_keys)
        self._file = config.api_keys_file
        self._changed_at_ns = 0
        self._in_file: tuple[bytes, ...] = ()
        if self._file is not None:
            self._read(self._file)

    @property
    def needed(self) -> bool:
        """Whether a client must have one."""
        return bool(self._own) or self._file is not None

    def know(self, key: bytes) -> bool:
        # All keys are compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(key, known) for known in (*self._own, *self._in_file)]
        return any(matches)

    def reload(self) -> None:
        """Take over what the file says now, if it has changed; a file that can't be used leaves the keys as they are.

        Reads a disk: not for an event loop.
        """
        if self._file is None:
            return
        try:
            if self._file.stat().st_mtime_ns != self._changed_at_ns:
                self._read(self._file)
        except (OSError, ValueError) as error:
            logger.error("the API keys were not read again: %s", error)

    def _read(self, file: Path) -> None:
        changed_at_ns = file.stat().st_mtime_ns
        lines = [line.strip() for line in file.read_bytes().splitlines()]
        keys = tuple(line for line in lines if line and not line.startswith(b"#"))
        if not keys:
            raise ValueError(f"there is no API key in {file}")
        self._in_file, self._changed_at_ns = keys, changed_at_ns
