"""What Serve knows of the stages: which have a replica, and why others have none."""

import re
from collections.abc import Collection

from ray import serve
from ray.serve.schema import ApplicationStatusOverview

from deployments.errors import shown

_RUNNING = "RUNNING"
_SETTLED = "HEALTHY"
_MAX_REASON_CHARS = 400
_ERROR_LINE = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*: (?P<said>.+)$")


def application_status(name: str) -> ApplicationStatusOverview | None:
    """Serve's own overview; asks the controller: blocks for a moment."""
    return serve.status().applications.get(name)


def missing_stages(name: str, stages: Collection[str]) -> dict[str, str | None]:
    """Those of `stages` that should have a replica and have none, with why; asks the controller, likewise.

    A stage that was scaled to nothing is not missing: a request makes it start.
    """
    status = application_status(name)
    known = {} if status is None else status.deployments
    missing: dict[str, str | None] = {}
    for stage in stages:
        if stage not in known:
            missing[stage] = None
            continue
        running = {str(getattr(s, "value", s)): count for s, count in known[stage].replica_states.items()}
        if not running.get(_RUNNING) and str(known[stage].status.value) != _SETTLED:
            missing[stage] = reason(known[stage].message)
    return missing


def reason(message: str) -> str | None:
    """The sentence in what Ray says of a stage: of a traceback the error that ended it, else the first line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [match["said"] for line in lines if (match := _ERROR_LINE.match(line))]
    said = errors[-1] if errors else next(iter(lines), "")
    return shown(said, _MAX_REASON_CHARS) or None
