"""What of Ray's processes' output a user of `sluice serve` sees."""

import io

from deployments.serving.worker_output import WorkerOutput

BATCH = {
    "is_err": True,
    "actor_name": "ServeReplica:sluice:Model",
    "lines": [
        "INFO 2026 -- Started.",
        "Loading weights: 50%|#| 1/2 [00:00<00:00]",
        "WARNING 2026 -- the family is new",
    ],
}


def test_requests_lines_stay_json_and_noise_is_left_out() -> None:
    out, err = io.StringIO(), io.StringIO()
    output = WorkerOutput(verbose=False, out=out, err=err)
    output(BATCH)
    assert (out.getvalue(), err.getvalue()) == ("", "")  # not ready yet
    output.is_open = True
    output(BATCH)
    output({"is_err": False, "actor_name": "ServeReplica:sluice:Ingress", "lines": ['{"status":200}']})
    output({"is_err": False, "pid": "autoscaler", "lines": ["Node status"]})
    assert out.getvalue() == '{"status":200}\n'
    assert err.getvalue() == "[sluice:Model] WARNING 2026 -- the family is new\n"


def test_verbose_shows_all_from_the_start() -> None:
    err = io.StringIO()
    WorkerOutput(verbose=True, out=io.StringIO(), err=err)(BATCH)
    assert err.getvalue().count("\n") == 3
