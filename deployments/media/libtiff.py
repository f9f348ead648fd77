"""Keeping libtiff from writing to the log: it says a line for each row that it can't read, of millions.

Pillow gives no way to tell it; its own copy of the library takes the word from whoever finds it in this process.
"""

import ctypes
import functools
from pathlib import Path

_MAPS = Path("/proc/self/maps")


@functools.cache
def silence_libtiff() -> bool:
    """For this process, after Pillow has been loaded; whether a libtiff was found."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    found = {line.split(maxsplit=5)[5] for line in lines if "/libtiff" in line}
    for path in found:
        library = ctypes.CDLL(path)
        for setter in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
    return bool(found)
