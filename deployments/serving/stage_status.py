"""What Serve knows of the stages: which have a replica, and why others have none.

Serve's overview of everything is dear: for each deployment, Serve pickles its request router's whole module, in the
controller and again in whoever asks, which held the ingress' event loop up for a third of a second each time that it
looked. So what is asked again and again is only who has a replica; the overview, when one has none.
"""

import re
from collections.abc import Collection

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatusOverview

from deployments.errors import shown
from deployments.types import StageStates

_ANSWERING = ("RUNNING", "PENDING_MIGRATION")
"""A replica whose node is to go answers until another one is there."""
_STOPPING = "STOPPING"
_SETTLED = "HEALTHY"
_MAX_REASON_CHARS = 400
_ERROR_LINE = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*: (?P<said>.+)$")


def application_status(name: str) -> ApplicationStatusOverview | None:
    """Serve's own overview; asks the controller: blocks for a moment."""
    return serve.status().applications.get(name)


def stage_states(name: str, stages: Collection[str]) -> StageStates:
    """Those of `stages` that can't answer now; asks the controller, likewise."""
    if _answering(name).issuperset(stages):
        return StageStates()
    return states_of(application_status(name), stages)


def _answering(name: str) -> set[str]:
    """The stages of application `name` that have a replica of a state among `_ANSWERING`.

    By a call that Serve's controller has for Serve's tests: the version is pinned.
    """
    replicas = ray.get(_get_global_client()._controller._all_running_replicas.remote())
    return {stage.name for stage, running in replicas.items() if running and stage.app_name == name}


def states_of(status: ApplicationStatusOverview | None, stages: Collection[str]) -> StageStates:
    """What Serve's overview says of `stages`. Settled without a replica is whom autoscaling has taken the last one."""
    known = {} if status is None else status.deployments
    missing: dict[str, str | None] = {}
    idle = set()
    for stage in stages:
        if stage not in known:
            missing[stage] = None
            continue
        replicas = {str(getattr(s, "value", s)) for s, count in known[stage].replica_states.items() if count}
        if replicas.intersection(_ANSWERING):
            continue
        if replicas <= {_STOPPING} and str(known[stage].status.value) == _SETTLED:
            idle.add(stage)
        else:
            missing[stage] = reason(known[stage].message)
    return StageStates(missing, frozenset(idle))


def reason(message: str) -> str | None:
    """The sentence in what Ray says of a stage: of a traceback the error that ended it, else the first line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [match["said"] for line in lines if (match := _ERROR_LINE.match(line))]
    said = errors[-1] if errors else next(iter(lines), "")
    return shown(said, _MAX_REASON_CHARS) or None
