import subprocess
import sys

import pytest
from ray.serve._private.build_app import build_app
from ray.serve.exceptions import RayServeException

import graph
from deployments.config import AppConfig
from deployments.served_model import deployment_names
from deployments.serving.in_process import Hosted


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


def test_each_of_several_models_is_bound_to_deployments_of_its_own():
    other = {"engine": {"max_running": 3}, "encoder": {}}
    config = AppConfig.model_validate({"models": {"demo": {}, "org/other": other}})
    built = {deployment.name: deployment for deployment in build_app(graph.build(config), name="sluice").deployments}
    assert set(built) == set(deployment_names(config))
    (own,) = built["Model:org/other"].init_args
    assert (own.model_name, own.engine.max_running, own.models) == ("org/other", 3, {})
    assert {"Encoder:org/other"} == {name for name in built if name.startswith("Encoder")}
    assert set(build_app(graph.build(AppConfig()), name="sluice").deployment_handles) == {
        "Ingress",
        "MediaFetcher",
        "VideoDecoder",
        "Preprocessor",
        "Model",
    }


def test_together_the_callers_of_fetchers_and_preprocessors_have_them() -> None:
    for models in ({}, {"models": {"demo": {}, "org/other": {}}}):
        config = AppConfig.model_validate({"placement": "together", **models})
        built = {
            deployment.name: deployment for deployment in build_app(graph.build(config), name="sluice").deployments
        }
        assert set(built) == set(deployment_names(config))
        assert not any(name.startswith(("MediaFetcher", "Preprocessor")) for name in built)
        assert isinstance(built["VideoDecoder"].init_kwargs["fetcher"], Hosted)
        assert isinstance(built["Ingress"].init_kwargs["fetcher"], Hosted)
        for name, (preprocessor, _) in built["Ingress"].init_kwargs["models"].items():
            assert isinstance(preprocessor, Hosted)
            assert preprocessor.config.model_name == name
