"""Configurations laid over each other."""

from collections.abc import Mapping
from typing import Any


def merged(base: Any, changes: Any) -> Any:
    """`base` with the keys of `changes` laid over it, dictionaries joined at every depth."""
    if isinstance(base, dict) and isinstance(changes, Mapping):
        return {**base, **{key: merged(base.get(key), value) for key, value in changes.items()}}
    return changes
