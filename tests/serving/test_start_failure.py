"""A constructor that fails once ends the start with its own words."""

from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
)

from deployments.serving.launch import failure

FIRST_FAILURE = """A replica failed to start with exception. Retrying 2 more time(s). Error:
Traceback (most recent call last):
  File "loading.py", line 43, in load_checkpoint
ValueError: /models/x has no chat template, so that it can't answer conversations"""


def overview(message: str, status: DeploymentStatus = DeploymentStatus.UPDATING) -> ApplicationStatusOverview:
    deployment = DeploymentStatusOverview(status, DeploymentStatusTrigger.CONFIG_UPDATE_STARTED, {}, message)
    return ApplicationStatusOverview(ApplicationStatus.DEPLOYING, "", 0.0, {"Preprocessor": deployment})


def test_the_first_failure_of_a_constructor_ends_the_start() -> None:
    said = "the Preprocessor stage can't start: /models/x has no chat template, so that it can't answer conversations"
    assert failure(overview(FIRST_FAILURE)) == said
    assert failure(overview(FIRST_FAILURE, DeploymentStatus.DEPLOY_FAILED)) == said


def test_a_slow_constructor_does_not() -> None:
    assert failure(overview("Deployment 'Model' has 1 replicas that have taken more than 30s to initialize.")) is None
