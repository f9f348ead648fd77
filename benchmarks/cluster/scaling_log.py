"""A policy of autoscaling that writes down what it saw: the one of the application, or a plain count of requests.

Ray runs it in its controller, a few times a second for each stage; each line of the log is one `Look`.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from deployments.autoscaling import by_load, total_load


@dataclass(frozen=True, slots=True)
class Look:
    """At one stage, at one moment."""

    at_s: float
    """Unix time."""
    stage: str
    replicas: int
    """That run."""
    target: int
    """That should run, by bounds and delays."""
    queued: float
    """Requests that wait at the callers; like all figures here a mean over Ray's window."""
    requests: float
    """Running and queued."""
    load: float | None
    """Of all replicas and of what is queued; None when it is not known."""
    by_load: int
    """Replicas wanted by the load, before bounds and delays."""
    by_count: int
    """By the number of requests."""


class Logged:
    """Named in a config file with `policy_kwargs: {path: ..., scale_by: load}`."""

    def __init__(self, path: str, scale_by: Literal["load", "count"]) -> None:
        self._path, self._scale_by = Path(path), scale_by

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        wanted, state = by_load(context)
        count = math.ceil(context.total_num_requests / context.config.target_ongoing_requests)
        look = Look(
            at_s=context.current_time,
            stage=context.deployment_name,
            replicas=context.current_num_replicas,
            target=context.target_num_replicas,
            queued=context.total_queued_requests,
            requests=context.total_num_requests,
            load=total_load(context),
            by_load=wanted,
            by_count=count,
        )
        with self._path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(asdict(look)) + "\n")
        return (wanted if self._scale_by == "load" else count), state


def read_looks(path: Path) -> list[Look]:
    """What has been written so far; a last line in the making is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [Look(**json.loads(line)) for line in lines if line.endswith("\n")]
