"""What Serve says of a stage that can't start, as one sentence."""

from deployments.serving.stage_status import reason

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
