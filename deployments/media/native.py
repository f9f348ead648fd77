"""Native libraries that Python packages brought along, told what these packages give no way to tell them."""

import ctypes
from pathlib import Path

_MAPS = Path("/proc/self/maps")


def loaded_libraries(name: str) -> list[ctypes.CDLL]:
    """Those in this process whose file begins with `name`; none where the system doesn't list them."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    paths = {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6 and f"/{name}" in fields[5]}
    return [ctypes.CDLL(path) for path in sorted(paths)]
