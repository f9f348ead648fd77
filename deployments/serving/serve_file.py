"""A Serve config file, read and held against what Ray and the application know: each of its keys is read by somebody.

Ray's own schema takes unknown keys silently: with `http_option:` in place of `http_options:` it listens on its own
defaults, and with `max_ongoing_request:` it bounds nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, ControllerOptions
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    LoggingConfig,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
    gRPCOptionsSchema,
)

from deployments.config import AppConfig
from deployments.served_model import DECODER, deployment_names, served_models
from deployments.startup.settings import WrongSetting, read_settings, said_of, unknown

Tree = dict[str, Any]

OWN_BUILDER = "graph:build"


@dataclass(frozen=True, slots=True)
class ServeFile:
    """A file without mistakes."""

    tree: Tree
    """As Ray takes it."""
    application: str
    """Name of the application that is ours."""
    args: AppConfig


def read_serve_file(path: Path) -> ServeFile:
    """Read and check the file at `path`. Raises `WrongSetting`."""
    return check_tree(read_tree(path))


def read_tree(path: Path) -> Tree:
    """What the file at `path` holds, unchecked but for being a mapping. Raises `WrongSetting`."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongSetting(f"the config file {str(path)!r} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" near line {mark.line + 1}"
        raise WrongSetting(f"the config file {str(path)!r} is no YAML{where}") from None
    if not isinstance(tree, dict):
        raise WrongSetting(f"the config file {str(path)!r} is no mapping of keys to values")
    return tree


def check_tree(tree: Tree) -> ServeFile:
    """Check what a file holds. Raises `WrongSetting` for the first thing that would not do what it says."""
    for where, level, known in _levels(tree):
        if not isinstance(level, Mapping):
            raise WrongSetting(f"{where or 'the file'} must be a mapping of keys to values")
        for key in level:
            if key not in known:
                raise WrongSetting(unknown(str(key), where, known))
    ours = [app for app in _applications(tree) if app.get("import_path") == OWN_BUILDER]
    if len(ours) != 1:
        raise WrongSetting(f"the file must have one application with `import_path: {OWN_BUILDER}`, and has {len(ours)}")
    args = read_settings(ours[0].get("args") or {})
    _check_deployments(ours[0], args)
    try:
        ServeDeploySchema.model_validate(tree)
    except ValidationError as error:
        raise WrongSetting(said_of(error, ServeDeploySchema, "")) from None
    for model in served_models(args):
        _check_ranks(ours[0], model.model, model.config.engine.tensor_parallel)
    file = ServeFile(tree, str(ours[0].get("name", "default")), args)
    if args.decoder.backend == "cuda" and not num_gpus(file).get(DECODER):
        raise WrongSetting(
            f"deployments.{DECODER}: args.decoder.backend is 'cuda', and its replicas see no card without"
            " ray_actor_options.num_gpus, a share like 0.1"
        )
    return file


def num_gpus(file: ServeFile) -> dict[str, float]:
    """What each replica of a deployment asks Ray for, all ranks together, by the deployment's name; those without an
    entry are left out."""
    (application,) = [app for app in _applications(file.tree) if app.get("import_path") == OWN_BUILDER]
    ranks = {model.model: model.config.engine.tensor_parallel for model in served_models(file.args)}
    return {
        entry["name"]: _own_gpus(entry) * ranks.get(entry["name"], 1) for entry in application.get("deployments") or ()
    }


def _own_gpus(entry: Tree) -> float:
    return float((entry.get("ray_actor_options") or {}).get("num_gpus") or 0)


def _check_ranks(application: Tree, name: str, ranks: int) -> None:
    """Each rank of the model's deployment `name` has a bundle, and each bundle the GPU that the replica has itself."""
    entry: Tree = next((entry for entry in application.get("deployments") or () if entry["name"] == name), {})
    bundles, gpus = entry.get("placement_group_bundles"), _own_gpus(entry)
    if bundles is None:
        if ranks > 1 and gpus:
            raise WrongSetting(
                f"deployments.{name}: with engine.tensor_parallel: {ranks} its GPUs stand in placement_group_bundles,"
                f" {ranks} bundles like {{CPU: 1, GPU: {gpus:g}}}, beside num_gpus: {gpus:g}, the replica's own"
            )
        return
    where = f"deployments.{name}.placement_group_bundles"
    if len(bundles) != ranks:
        raise WrongSetting(f"{where}: {len(bundles)} of them, and engine.tensor_parallel is {ranks}")
    for bundle in bundles:
        if float(bundle.get("GPU", 0)) != gpus:
            raise WrongSetting(
                f"{where}: each needs GPU: {gpus:g}, as the replica itself has by ray_actor_options.num_gpus"
            )


def _check_deployments(application: Tree, args: AppConfig) -> None:
    entries = application.get("deployments") or ()
    bound, there = deployment_names(args), [str(entry.get("name")) for entry in entries]
    apart = deployment_names(args.model_copy(update={"placement": "apart"}))
    for name in there:
        if name in apart and name not in bound:
            raise WrongSetting(
                f"deployments.{name}: with args.placement: together it is a part of the Ingress, and has no entry"
            )
        if name not in bound:
            raise WrongSetting(unknown(name, "deployments", bound).replace("key", "name"))
    if args.models and (left_out := [name for name in bound if name not in there]):
        raise WrongSetting(
            f"deployments: there is no entry {left_out[0]!r}: with several models each deployment needs its own, or it"
            " would have Ray's defaults, five requests at once"
        )
    for entry in entries:
        name = str(entry.get("name"))
        scaling = entry.get("autoscaling_config")
        if isinstance(scaling, Mapping):
            try:
                AutoscalingConfig(**scaling)  # the schema takes min_replicas > max_replicas
            except (ValidationError, ValueError) as error:
                said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
                where = f"deployments.{name}.autoscaling_config"
                raise WrongSetting(f"{where}: {said.removeprefix('Value error, ')}") from None


def _applications(tree: Tree) -> list[Tree]:
    applications = tree.get("applications")
    if not isinstance(applications, list) or not all(isinstance(app, dict) for app in applications):
        raise WrongSetting("the file must have a list `applications`")
    return applications


def _levels(tree: Tree) -> Iterator[tuple[str, Any, Any]]:
    """(where, mapping, names of the keys that somebody reads there), from the top down."""
    yield "", tree, ServeDeploySchema.model_fields
    for name, schema in (
        ("http_options", HTTPOptionsSchema),
        ("grpc_options", gRPCOptionsSchema),
        ("logging_config", LoggingConfig),
        ("controller_options", ControllerOptions),
    ):
        yield name, tree.get(name) or {}, schema.model_fields
    for application in _applications(tree):
        where = f"applications.{application.get('name', 'default')}"
        yield where, application, ServeApplicationSchema.model_fields
        yield f"{where}.logging_config", application.get("logging_config") or {}, LoggingConfig.model_fields
        for entry in application.get("deployments") or ():
            at = f"deployments.{entry.get('name')}" if isinstance(entry, dict) else "deployments"
            yield at, entry, DeploymentSchema.model_fields
            scaling = entry.get("autoscaling_config")
            scaling = scaling if isinstance(scaling, dict) else {}
            yield f"{at}.autoscaling_config", scaling, AutoscalingConfig.model_fields
            yield f"{at}.autoscaling_config.policy", scaling.get("policy") or {}, AutoscalingPolicy.model_fields
            yield f"{at}.ray_actor_options", entry.get("ray_actor_options") or {}, RayActorOptionsSchema.model_fields
