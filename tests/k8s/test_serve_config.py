"""The application's configuration on a cluster is the shipped one, with other sizes and places."""

import pytest
import yaml

from deployments.serving.serve_file import check_tree
from deployments.startup.settings import WrongSetting
from tests.k8s import manifests
from tests.k8s.manifests import ALL, ROOT, WITH_GPU, Tree
from tests.support import serve_files

RANKS = {"placement_group_bundles", "placement_group_strategy"}
SIZES = {"num_replicas", "autoscaling_config", "max_replicas_per_node", "ray_actor_options"} | RANKS


def shipped() -> Tree:
    tree: Tree = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    return tree


def without(tree: Tree, keys: set[str]) -> Tree:
    return {key: value for key, value in tree.items() if key not in keys}


def with_encoder(tree: Tree) -> Tree:
    """The shipped file with the entry that it shows behind comment marks: of a deployment that is optional."""
    text = (ROOT / "serve_config.yaml").read_text(encoding="utf-8")
    shown = text[text.index("# - name: Encoder") :].split("\n\n")[0]
    (entry,) = yaml.safe_load("\n".join(line.strip().removeprefix("# ") for line in shown.splitlines()))
    stages = tree["applications"][0]["deployments"]
    stages.insert(-1, entry)
    return tree


def test_the_shipped_files_optional_deployment_is_one_that_may_stand_there() -> None:
    tree = with_encoder(shipped())
    with pytest.raises(WrongSetting, match="Encoder"):
        check_tree(tree)
    tree["applications"][0]["args"]["encoder"] = {}
    check_tree(tree)


@pytest.mark.parametrize("name", ALL)
def test_ray_takes_the_configuration_and_ignores_nothing_of_it(name: str) -> None:
    serve_files.check(manifests.serve_config(name))


def test_misspelt_keys_on_every_level_are_found() -> None:
    tree = shipped()
    tree["htp_options"] = {}
    tree["http_options"]["prt"] = 1
    tree["applications"][0]["deployments"][1]["autoscaling_config"]["max_replica"] = 1
    tree["applications"][0]["deployments"][2]["ray_actor_options"]["num_cpu"] = 1
    assert serve_files.unknown_keys(tree) == [
        ".htp_options",
        "http_options.prt",
        "MediaFetcher.autoscaling_config.max_replica",
        "VideoDecoder.ray_actor_options.num_cpu",
    ]


@pytest.mark.parametrize("name", ALL)
def test_the_application_is_the_shipped_one(name: str) -> None:
    here, there = manifests.serve_config(name)["applications"][0], shipped()["applications"][0]
    assert without(here, {"args", "deployments"}) == without(there, {"args", "deployments"})
    own = {"model", "device", "ingress", "engine", "encoder"}
    assert without(here["args"], own) == without(there["args"], own)
    assert set(here["args"].get("ingress", {})) <= {"api_keys_file", "max_running_media"}
    assert set(here["args"].get("engine", {})) <= {"tensor_parallel"}


@pytest.mark.parametrize("name", ALL)
def test_stages_are_bounded_as_in_the_shipped_file(name: str) -> None:
    here = serve_files.deployments_of(manifests.serve_config(name))
    there = serve_files.deployments_of(with_encoder(shipped()) if "Encoder" in here else shipped())
    assert list(here) == list(there)
    for stage, entry in here.items():
        assert without(entry, SIZES) == without(there[stage], SIZES), stage


@pytest.mark.parametrize("name", ALL)
def test_stages_are_scaled_by_what_scales_them_in_the_shipped_file(name: str) -> None:
    """Other bounds and other delays; the same target and the same policy."""
    numbers = {"min_replicas", "max_replicas", "upscale_delay_s", "downscale_delay_s"}
    there = serve_files.deployments_of(with_encoder(shipped()))
    for stage, entry in serve_files.deployments_of(manifests.serve_config(name)).items():
        if "autoscaling_config" in there[stage] and "num_replicas" not in entry:  # where there is room for one more
            expected = without(there[stage]["autoscaling_config"], numbers)
            assert without(entry["autoscaling_config"], numbers) == expected, stage


@pytest.mark.parametrize("name", ["prod", "incremental"])
def test_production_differs_from_the_base_in_sizes_only(name: str) -> None:
    here, base = manifests.serve_config(name), manifests.serve_config(manifests.PLAIN_BASE)
    assert without(here, {"applications"}) == without(base, {"applications"})
    stages = serve_files.deployments_of(here)
    for stage, entry in serve_files.deployments_of(base).items():
        assert without(entry, SIZES - {"ray_actor_options"}) == without(stages[stage], SIZES - {"ray_actor_options"})


def test_the_small_cluster_serves_what_one_machine_serves() -> None:
    assert serve_files.arguments_of(manifests.serve_config("dev")) == serve_files.arguments_of(shipped())


@pytest.mark.parametrize("name", ALL)
def test_every_node_has_a_proxy_that_answers_from_outside_its_pod(name: str) -> None:
    config = manifests.serve_config(name)
    assert config["proxy_location"] == "EveryNode"  # a worker without one is never ready
    assert config["http_options"]["host"] == "0.0.0.0"
    assert config["http_options"]["request_timeout_s"] == shipped()["http_options"]["request_timeout_s"]


@pytest.mark.parametrize("name", WITH_GPU)
def test_a_gpu_that_is_missing_is_an_error_and_not_a_slow_model(name: str) -> None:
    assert serve_files.arguments_of(manifests.serve_config(name)).device == "cuda"
