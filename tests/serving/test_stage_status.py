"""What Serve says of its stages: which can't answer, and why, as one sentence."""

import pytest
from ray.serve._private.common import ReplicaState
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
)

from deployments.serving.stage_status import reason, states_of
from deployments.types import StageStates

TRACEBACK = """The deployment failed to start 1 times in a row. See controller logs for details. Error:
ray::ServeReplica:sluice:Model.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
  File "loading.py", line 1, in load
    raise InternalError(said)
deployments.errors.InternalError: the KV cache's 0.00 GiB do not hold a single sequence
"""


def test_of_a_traceback_the_last_error_is_the_reason() -> None:
    assert reason(TRACEBACK) == "the KV cache's 0.00 GiB do not hold a single sequence"


def test_of_anything_else_the_first_line_is() -> None:
    assert reason("Deployment 'Model' has 1 replicas that wait for a GPU.\nMore.") == (
        "Deployment 'Model' has 1 replicas that wait for a GPU."
    )
    assert reason("") is None


@pytest.mark.parametrize(
    ("replicas", "status", "state"),
    [
        ({"RUNNING": 1, "STARTING": 1}, DeploymentStatus.UPSCALING, "there"),
        ({"PENDING_MIGRATION": 1, "STARTING": 1}, DeploymentStatus.HEALTHY, "there"),
        ({}, DeploymentStatus.HEALTHY, "idle"),
        ({"STOPPING": 1}, DeploymentStatus.HEALTHY, "idle"),
        ({"STARTING": 1}, DeploymentStatus.UPSCALING, "missing"),
        ({"STARTING": 1}, DeploymentStatus.HEALTHY, "missing"),
        ({}, DeploymentStatus.UNHEALTHY, "missing"),
        ({"STOPPING": 1}, DeploymentStatus.UPDATING, "missing"),
    ],
)
def test_a_stage_without_a_replica_is_idle_where_serve_wants_none_and_missing_else(
    replicas: dict[str, int], status: DeploymentStatus, state: str
) -> None:
    counts = {ReplicaState(name): count for name, count in replicas.items()}
    deployment = DeploymentStatusOverview(status, DeploymentStatusTrigger.AUTOSCALING, counts, "")
    overview = ApplicationStatusOverview(ApplicationStatus.RUNNING, "", 0.0, {"Model": deployment})
    states = states_of(overview, ["Model"])
    assert (
        states
        == {
            "there": StageStates(),
            "idle": StageStates(idle=frozenset({"Model"})),
            "missing": StageStates({"Model": None}),
        }[state]
    )


def test_what_serve_does_not_know_is_missing() -> None:
    assert states_of(None, ["Model"]) == StageStates({"Model": None})
