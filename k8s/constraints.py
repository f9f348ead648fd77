"""Writes k8s/constraints.txt: `python k8s/constraints.py`, in the environment whose tests have just passed.

The versions of what the project needs, and of what that needs, as they are installed here. CUDA's own packages are left
out: torch names its own.
"""

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).parent
HEADER = """\
# What both images install: the versions that the tests ran with, written by constraints.py. The images then hold the
# same ones, whenever and wherever they are built. CUDA's own packages come with torch. pillow-heif is in neither image.
"""
WITH_TORCH = ("cuda-", "nvidia-", "triton")


def installed(wanted: list[str]) -> dict[str, str]:
    """Version by name of what `wanted` names and, through it, needs on this platform."""
    todo, seen, found = [Requirement(entry) for entry in wanted], set(), {}
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        here = distribution(requirement.name)
        found[key[0]] = Version(here.version).public  # without the label of a CPU or CUDA build
        for needed in map(Requirement, here.requires or ()):
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed)
    return found


def main() -> None:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    versions = installed([*project["dependencies"], *extras["tracing"], *extras["heic"]])
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items()) if not name.startswith(WITH_TORCH)]
    (HERE / "constraints.txt").write_text(HEADER + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
