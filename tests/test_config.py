"""Settings: misspelt keys stop the start; the shipped file says what it means."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from deployments.config import AppConfig, MediaConfig
from deployments.startup.settings import section_of
from tests.support import serve_files

SERVE_CONFIG: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parent.parent / "serve_config.yaml").read_text(encoding="utf-8")
)
STAGES = ["Ingress", "MediaFetcher", "VideoDecoder", "Preprocessor", "Model"]


def deployments() -> dict[str, dict[str, Any]]:
    return serve_files.deployments_of(SERVE_CONFIG)


@pytest.mark.parametrize("path", [("modle",), ("media", "max_redirect"), ("engine", "max_runing"), ("ingress", "port")])
def test_an_unknown_key_is_refused_by_name(path: tuple[str, ...]) -> None:
    tree: dict[str, Any] = {path[-1]: 1}
    for key in reversed(path[:-1]):
        tree = {key: tree}
    with pytest.raises(ValidationError, match=path[-1]):
        AppConfig.model_validate(tree)


@pytest.mark.parametrize(
    "entry", ["https://example.org", "example.org:80", "example.org/x", "*.example.org", "", "a b"]
)
def test_a_malformed_domain_stops_the_start(entry: str) -> None:
    with pytest.raises(ValidationError, match="not a host name"):
        MediaConfig(allowed_domains=(entry,))


@pytest.mark.parametrize("stage", ["decoder", "engine", "encoder"])
def test_a_stage_that_would_get_replicas_only_after_admission_refuses_stops_the_start(stage: str) -> None:
    slow = {stage: {"target_backlog_s": 0.3}}
    with pytest.raises(ValidationError, match=f"{stage}.target_backlog_s is 0.3 and may be 0.17"):
        AppConfig.model_validate(slow)
    AppConfig.model_validate({**slow, "ingress": {"target_ttft_s": 1.0}})


def test_every_setting_says_what_it_is() -> None:
    def walk(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            if (section := section_of(field.annotation)) is not None:
                walk(section)
            else:
                assert field.description, f"{model.__name__}.{name}"

    walk(AppConfig)


def test_the_shipped_file_is_a_serve_config_without_unknown_keys() -> None:
    serve_files.check(SERVE_CONFIG)


def test_every_stage_is_scaled_and_bounded_on_its_own() -> None:
    assert list(deployments()) == STAGES
    for deployment in deployments().values():
        assert deployment["max_ongoing_requests"] > 0
        assert "num_replicas" in deployment or "autoscaling_config" in deployment
    assert all("max_queued_requests" in deployments()[name] for name in STAGES[1:])


def test_stages_have_the_next_requests_at_hand() -> None:
    config = AppConfig.model_validate(SERVE_CONFIG["applications"][0]["args"])
    assert deployments()["VideoDecoder"]["max_ongoing_requests"] >= 2 * config.decoder.workers
    assert deployments()["Preprocessor"]["max_ongoing_requests"] >= 2 * config.preprocessor.workers
    assert deployments()["Model"]["max_ongoing_requests"] >= (config.engine.max_running or 16)


def test_the_default_application_fits_one_core_and_takes_no_gpu() -> None:
    options = [d["ray_actor_options"] for d in deployments().values()]
    assert sum(o["num_cpus"] for o in options) <= 1.0 + 1e-9
    assert not any("num_gpus" in o for o in options)


def test_rays_own_timeout_is_only_a_net_behind_ours() -> None:
    config = AppConfig.model_validate(SERVE_CONFIG["applications"][0]["args"])
    assert SERVE_CONFIG["http_options"]["request_timeout_s"] > config.ingress.request_timeout_s
