"""The servers that benchmarks start are told what the benchmark wants, in the words of the shipped file."""

import yaml

from benchmarks.kit.servers import SERVE_CONFIG, settings_of
from tests.support.serve_files import arguments_of, check, deployments_of


def test_several_models_are_served_by_stages_of_their_own():
    file = yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8"))
    models = {"one": {"model": "demo"}, "two": {"model": "demo", "engine": {"max_running": 2}}}
    settings = settings_of(file, 8123, models, {"ingress": {"max_wait_s": 7}})
    check(settings)
    args = arguments_of(settings)
    assert [(name, section.engine.max_running) for name, section in args.models.items()][1] == ("two", 2)
    assert (args.ingress.max_wait_s, [str(network) for network in args.media.allowed_networks]) == (7, ["127.0.0.0/8"])
    own = {f"{stage}:{name}" for stage in ("Preprocessor", "Model") for name in models}
    assert own <= set(deployments_of(settings))
    assert settings["http_options"]["port"] == 8123


def test_one_model_keeps_the_files_stages():
    file = yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8"))
    stages = set(deployments_of(file))
    settings = settings_of(file, 8123, "org/model", {})
    assert (arguments_of(settings).model, set(deployments_of(settings))) == ("org/model", stages)
