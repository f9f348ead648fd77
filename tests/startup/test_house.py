"""`deployments` and `graph` are taken from one place, or nothing starts."""

from pathlib import Path

import pytest

from deployments.startup.house import check_house
from deployments.startup.settings import WrongSetting


def test_a_graph_beside_another_package_is_refused(tmp_path: Path) -> None:
    check_house()
    with pytest.raises(WrongSetting, match=r"the package `deployments` is in .*, and graph\.py is in"):
        check_house(str(tmp_path / "graph.py"))
