"""TIFF files, where Pillow and libtiff need a guardian: a table of millions of tiles, millions of lines in the log."""

import ctypes
import functools

import numpy as np
from numpy.typing import NDArray

from deployments.media.native import loaded_libraries

MAX_VALUES = 100_000
"""Of one tag: Pillow makes an object, or several, of each. A strip for each row of the tallest picture is 65,535."""

_ENTRY = np.dtype([("tag", "<u2"), ("kind", "<u2"), ("count", "<u4"), ("value", "<u4")])
_OF_BYTES = (1, 2, 6, 7)
"""Kinds of values that stay in one piece: bytes, and text."""


def first_directory(data: NDArray[np.uint8]) -> NDArray[np.void]:
    """Of the TIFF file `data`, uint8 of shape (size,): a row (tag, kind, count, value) for each tag that is there."""
    is_big = data[:2].tobytes() == b"MM"
    at = int.from_bytes(data[4:8].tobytes(), "big" if is_big else "little")
    entries = int.from_bytes(data[at : at + 2].tobytes(), "big" if is_big else "little")
    table = data[at + 2 : at + 2 + _ENTRY.itemsize * entries].tobytes()
    return np.frombuffer(
        table[: len(table) // _ENTRY.itemsize * _ENTRY.itemsize], _ENTRY.newbyteorder(">") if is_big else _ENTRY
    )


def most_values(data: NDArray[np.uint8]) -> int:
    """Of one tag in the first directory of a TIFF file; 0 where there is none."""
    rows = first_directory(data)
    return int(rows["count"][~np.isin(rows["kind"], _OF_BYTES)].max(initial=0))


@functools.cache
def silence_libtiff() -> bool:
    """For this process, after Pillow has been loaded; whether a libtiff was found.

    It says a line for each row that it can't read. Pillow gives no way to tell it not to; its own copy of the library
    takes the word from whoever finds it in this process.
    """
    libraries = loaded_libraries("libtiff")
    for library in libraries:
        for setter in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
    return bool(libraries)
