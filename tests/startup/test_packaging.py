"""What `pyproject.toml` promises to whoever installs this."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_dependency_ends_below_its_next_major() -> None:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    unbounded = [
        line
        for line in PROJECT["dependencies"] + extras
        if not re.search(r"==|<\d+", line) and not line.startswith("sluice[")
    ]
    assert unbounded == []


def test_there_is_a_command() -> None:
    assert PROJECT["scripts"] == {"sluice": "deployments.cli:main"}
