"""All checks of a start in their order, from what costs nothing to what looks at the machine."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from deployments.config import AppConfig
from deployments.observability.tracing import check_packages
from deployments.served_model import ServedModel, served_models
from deployments.startup.house import check_house
from deployments.startup.machine import check_machine
from deployments.startup.model_files import read_model_files
from deployments.startup.settings import WrongSetting, read_settings


def checked_settings(args: Mapping[str, Any] | AppConfig, graph_file: str, *, alone: bool) -> AppConfig:
    """The settings of an application that is about to be built. Raises `WrongSetting`.

    `alone`: this machine is the whole cluster, so that its files and cards are those that the replicas will find.
    """
    check_house(graph_file)
    config = args if isinstance(args, AppConfig) else read_settings(args)
    _check_tracing(config)
    if alone:
        check_here(config)
    return config


def check_here(config: AppConfig, num_gpus: Mapping[str, float] = MappingProxyType({})) -> None:
    """Hold settings against this machine: the models' files, the card, the memory.

    `num_gpus`: what a replica asks Ray for, by its deployment's name.
    """
    if config.ingress.api_keys_file is not None and not config.ingress.api_keys_file.is_file():
        raise WrongSetting(f"args.ingress.api_keys_file: there is no file {str(config.ingress.api_keys_file)!r}")
    if config.media.local_root is not None and not config.media.local_root.is_dir():
        raise WrongSetting(f"args.media.local_root: there is no folder {str(config.media.local_root)!r}")
    for model in served_models(config):
        for stage in filter(None, (model.model, model.encoder)):
            _check_model(model, stage, num_gpus.get(stage, 0.0))


def _check_model(model: ServedModel, stage: str, num_gpus: float) -> None:
    """`stage`: the deployment that is to hold the model, or a part of it."""
    try:
        check_machine(model.config, read_model_files(model.config), num_gpus)
    except WrongSetting as error:  # of one of several it stands in its section
        said = str(error).replace("deployments: Model ", f"deployments: {stage} ", 1)
        raise WrongSetting(said.replace("args.", f"{model.section}.", 1)) from None


def _check_tracing(config: AppConfig) -> None:
    try:
        check_packages(config.tracing)
    except RuntimeError as error:
        raise WrongSetting(str(error)) from None
