"""Reading and checking Serve config files: Ray's own schema, and the unknown keys that it lets pass."""

import copy
from collections.abc import Mapping
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from deployments.config import AppConfig, ModelConfig

Tree = dict[str, Any]


def deployments_of(config: Tree) -> dict[str, Tree]:
    """The stages' entries by name; one application."""
    (application,) = config["applications"]
    return {entry["name"]: entry for entry in application["deployments"]}


def arguments_of(config: Tree) -> AppConfig:
    (application,) = config["applications"]
    return AppConfig.model_validate(application["args"])


def unknown_keys(config: Tree) -> list[str]:
    """Keys that Ray would ignore, with where they stand."""
    (application,) = config["applications"]
    levels: list[tuple[str, Tree, Any]] = [
        ("", config, ServeDeploySchema),
        ("http_options", config.get("http_options", {}), HTTPOptionsSchema),
        (application["name"], application, ServeApplicationSchema),
    ]
    for name, entry in deployments_of(config).items():
        policy = entry.get("autoscaling_config", {}).get("policy", {})
        levels += [
            (name, entry, DeploymentSchema),
            (f"{name}.autoscaling_config", entry.get("autoscaling_config", {}), AutoscalingConfig),
            (f"{name}.autoscaling_config.policy", policy, AutoscalingPolicy),
            (f"{name}.ray_actor_options", entry.get("ray_actor_options", {}), RayActorOptionsSchema),
        ]
    return [f"{where}.{key}" for where, tree, schema in levels for key in tree if key not in schema.model_fields]


def check(config: Tree) -> None:
    """Raises, or fails an assertion, when the file would not do what it says."""
    ServeDeploySchema.model_validate(config)
    assert unknown_keys(config) == []
    for entry in deployments_of(config).values():
        if "autoscaling_config" in entry:
            AutoscalingConfig(**entry["autoscaling_config"])  # the schema takes min_replicas > max_replicas
    arguments_of(config)


def with_models(config: Tree, models: Mapping[str, Mapping[str, Any]]) -> Tree:
    """The file with these sections in place of its one model; each has the deployments that the one has."""
    config = copy.deepcopy(config)
    (application,) = config["applications"]
    of_one = (*ModelConfig.model_fields, "served_model_name")
    shared_args = {key: value for key, value in (application.get("args") or {}).items() if key not in of_one}
    application["args"] = {**shared_args, "models": {name: dict(own) for name, own in models.items()}}
    *shared, preprocessor, model = application["deployments"]
    own = [{**entry, "name": f"{entry['name']}:{name}"} for name in models for entry in (preprocessor, model)]
    application["deployments"] = [*shared, *copy.deepcopy(own)]
    return config
