import subprocess
import sys

import pytest
from ray.serve.exceptions import RayServeException

import graph


def test_who_builds_the_application_waits_for_no_model_library():
    script = (
        "import sys; import graph; from deployments.config import AppConfig; graph.build(AppConfig()); "
        "assert not {'torch', 'transformers', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_settings_that_cannot_work_are_told_to_serve_as_one_sentence():
    """`RayServeException` is the one error that Serve shows without a traceback."""
    for args, said in (({"modle": "demo"}, "did you mean 'model'?"), ({"model": "/nowhere"}, "there is no folder")):
        with pytest.raises(RayServeException) as refused:
            graph.build(args)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
