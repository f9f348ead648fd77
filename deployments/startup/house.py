"""Is the code that is imported the code that was started?

`deployments` and `graph` are an application's names, not a library's: a folder in which Python is started may have its
own, and one of them would then meet the other's settings.
"""

from importlib.util import find_spec
from pathlib import Path

import deployments
from deployments.startup.settings import WrongSetting


def check_house(graph_file: str | None = None) -> None:
    """Raise `WrongSetting` unless `deployments` stands beside its `graph.py`. None: the one that would be imported."""
    house = Path(deployments.__file__).resolve().parent.parent
    if graph_file is None:
        spec = find_spec("graph")
        graph_file = None if spec is None else spec.origin
    beside = None if graph_file is None else Path(graph_file).resolve().parent
    if beside != house:
        where = "no graph.py is to be found" if beside is None else f"graph.py is in {str(beside)!r}"
        raise WrongSetting(
            f"the package `deployments` is in {str(house)!r}, and {where}: start in the folder of Sluice's checkout, or"
            " elsewhere than in a folder with such names"
        )
