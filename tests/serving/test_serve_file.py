"""Each key of a Serve config file is read by somebody, at every level."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments import cli
from deployments.served_model import served_models
from deployments.serving.serve_file import check_tree, num_gpus, read_serve_file
from deployments.startup.settings import WrongSetting, read_settings
from deployments.startup.start import check_here
from tests.support.application import SERVE_CONFIG
from tests.support.serve_files import with_models

K8S = sorted((SERVE_CONFIG.parent / "k8s").glob("**/serve_config.yaml"))


def shipped() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8"))
    return tree


@pytest.mark.parametrize("path", [SERVE_CONFIG, *K8S], ids=lambda path: path.parent.name)
def test_the_shipped_files_are_right(path: Path) -> None:
    assert read_serve_file(path).application == "sluice"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (["http_option"], "the file has an unknown key 'http_option': did you mean 'http_options'?"),
        (["http_options", "prot"], "http_options has an unknown key 'prot': did you mean 'port'?"),
        (["logging_config", "log_levl"], "logging_config has an unknown key 'log_levl'"),
        (["controller_options", "runtime_envs"], "controller_options has an unknown key 'runtime_envs'"),
        (["applications", 0, "arg"], "applications.sluice has an unknown key 'arg': did you mean 'args'?"),
        (["applications", 0, "args", "modle"], "args has an unknown key 'modle': did you mean 'model'?"),
        (["applications", 0, "deployments", 1, "max_ongoing_request"], "did you mean 'max_ongoing_requests'?"),
        (["applications", 0, "deployments", 1, "autoscaling_config", "min_replica"], "did you mean 'min_replicas'?"),
        (["applications", 0, "deployments", 1, "ray_actor_options", "num_cpu"], "did you mean 'num_cpus'?"),
    ],
)
def test_an_unknown_key_is_refused_at_every_level(path: list[Any], said: str) -> None:
    tree = shipped()
    level: Any = tree
    for key in path[:-1]:
        level = level[key]
    level[path[-1]] = 1
    with pytest.raises(WrongSetting) as wrong:
        check_tree(tree)
    assert said in str(wrong.value)


def test_a_deployment_that_is_none_of_ours_is_refused() -> None:
    tree = shipped()
    tree["applications"][0]["deployments"][-1]["name"] = "Modle"
    with pytest.raises(WrongSetting, match="unknown name 'Modle': did you mean 'Model'"):
        check_tree(tree)


def test_replicas_that_contradict_each_other_are_refused() -> None:
    tree = shipped()
    tree["applications"][0]["deployments"][1]["autoscaling_config"]["min_replicas"] = 5
    with pytest.raises(WrongSetting, match=r"deployments.MediaFetcher.autoscaling_config: max_replicas \(2\)"):
        check_tree(tree)


def test_a_decoder_that_is_to_use_a_card_has_a_share_of_one() -> None:
    tree = shipped()
    tree["applications"][0]["args"]["decoder"] = {"backend": "cuda"}
    with pytest.raises(WrongSetting, match=r"deployments.VideoDecoder: .* see no card without .*num_gpus"):
        check_tree(tree)
    entry = next(each for each in tree["applications"][0]["deployments"] if each["name"] == "VideoDecoder")
    entry["ray_actor_options"]["num_gpus"] = 0.1
    assert check_tree(tree).args.decoder.backend == "cuda"


def test_what_is_no_file_and_no_yaml_is_said(tmp_path: Path) -> None:
    with pytest.raises(WrongSetting, match="can't be read"):
        read_serve_file(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [\n", encoding="utf-8")
    with pytest.raises(WrongSetting, match="is no YAML near line 2"):
        read_serve_file(tmp_path / "bad.yaml")


def test_the_check_command_fails_with_one_line_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(SERVE_CONFIG)]) == 0
    (tmp_path / "bad.yaml").write_text("{http_option: 1}", encoding="utf-8")
    assert cli.main(["check", str(SERVE_CONFIG), str(tmp_path / "bad.yaml")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_models_share_of_a_card_is_read() -> None:
    tree = shipped()
    assert num_gpus(check_tree(tree))["Model"] == 0
    tree["applications"][0]["deployments"][-1]["ray_actor_options"]["num_gpus"] = 1
    assert num_gpus(check_tree(tree))["Model"] == 1


def several(*names: str) -> dict[str, Any]:
    return with_models(shipped(), {name: {} for name in names})


def test_each_of_several_models_has_entries_of_its_own() -> None:
    file = check_tree(several("small", "org/large"))
    assert [model.stages for model in served_models(file.args)] == [
        ("Preprocessor:small", "Model:small"),
        ("Preprocessor:org/large", "Model:org/large"),
    ]
    tree = several("small")
    entries = tree["applications"][0]["deployments"]
    entries[-1]["name"] = "Model:smal"
    with pytest.raises(WrongSetting, match="unknown name 'Model:smal': did you mean 'Model:small'"):
        check_tree(tree)
    entries.pop()
    with pytest.raises(WrongSetting, match="no entry 'Model:small'"):
        check_tree(tree)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"models": {"a": {"modle": "x"}}}, "args.models.a has an unknown key 'modle': did you mean 'model'?"),
        (
            {"models": {"a": {"engine": {"max_runing": 1}}}},
            "args.models.a.engine has an unknown key 'max_runing': did you mean 'max_running'?",
        ),
        ({"models": {"a": {"ingress": {}}}}, "args.models.a has an unknown key 'ingress'"),
        ({"models": {"a": {}}, "engine": {}}, "engine stands beside `models`"),
        ({"models": {"a:b": {}}}, "args.models: 'a:b' is no name of a model"),
        (
            {"models": {"a": {"engine": {"target_backlog_s": 9}}}},
            "models.a.engine.target_backlog_s is 9 and may be 0.17 at most",
        ),
    ],
)
def test_what_is_wrong_in_a_section_is_said_with_its_place(args: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongSetting) as wrong:
        read_settings(args)
    assert said in str(wrong.value)


def test_a_missing_checkpoint_is_said_of_the_model_that_lacks_it() -> None:
    with pytest.raises(WrongSetting, match=r"^args\.models\.b\.model: there is no folder '/nowhere'"):
        check_here(read_settings({"models": {"a": {}, "b": {"model": "/nowhere"}}}))


def test_ranks_and_their_bundles_agree() -> None:
    tree = shipped()
    application = tree["applications"][0]
    model = application["deployments"][-1]
    application["args"]["engine"] = {"tensor_parallel": 2}
    check_tree(tree)  # the default: bundles without GPUs
    model["ray_actor_options"]["num_gpus"] = 1
    with pytest.raises(WrongSetting, match="its GPUs stand in placement_group_bundles, 2 bundles like"):
        check_tree(tree)
    model["placement_group_bundles"] = [{"CPU": 1, "GPU": 1}]
    with pytest.raises(WrongSetting, match=r"placement_group_bundles: 1 of them, and engine\.tensor_parallel is 2"):
        check_tree(tree)
    model["placement_group_bundles"] = [{"CPU": 1, "GPU": 1}, {"CPU": 1}]
    with pytest.raises(WrongSetting, match="each needs GPU: 1, as the replica itself has"):
        check_tree(tree)
    model["placement_group_bundles"] = [{"CPU": 1, "GPU": 1}] * 2
    assert num_gpus(check_tree(tree))["Model"] == 2
    del application["args"]["engine"]
    with pytest.raises(WrongSetting, match=r"2 of them, and engine\.tensor_parallel is 1"):
        check_tree(tree)


def test_what_is_in_the_ingress_process_has_no_entry() -> None:
    tree = shipped()
    application = tree["applications"][0]
    application["args"]["placement"] = "together"
    with pytest.raises(WrongSetting, match=r"deployments.MediaFetcher: with args.placement: together it is a part of"):
        check_tree(tree)
    kept = ("Ingress", "VideoDecoder", "Model")
    application["deployments"] = [entry for entry in application["deployments"] if entry["name"] in kept]
    assert check_tree(tree).args.placement == "together"
