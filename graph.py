"""The application's shape, and nothing else: which stage calls which. `serve run serve_config.yaml` starts here.

Ingress ──► MediaFetcher ──► VideoDecoder
   │             │                │          (references to their payloads, never the payloads)
   │             ▲────ranges──────┘         (parts of long videos: to other replicas of its own)
   ├─────────────┴───────► Preprocessor
   ├─────────────────────────────────────► Encoder   (where it is configured: else the Model encodes)
   └─────────────────────────────────────► Model

Of several models each has a Preprocessor, a Model and perhaps an Encoder of its own. With `placement: together`, the
fetcher and the preprocessors are no deployments: whoever calls one has it in its own process.
"""

from collections.abc import Mapping
from typing import Any

import ray
from ray.serve import Application
from ray.serve.exceptions import RayServeException

from deployments.config import AppConfig
from deployments.decoder.deployment import VideoDecoder
from deployments.fetcher.deployment import MediaFetcher
from deployments.ingress.deployment import Ingress
from deployments.model.deployment import Model
from deployments.model.encoder.deployment import Encoder
from deployments.preprocessor.deployment import Preprocessor
from deployments.served_model import ServedModel, served_models
from deployments.serving.content_router import found_again
from deployments.serving.in_process import Hosted
from deployments.serving.rank_actors import with_ranks
from deployments.startup.settings import WrongSetting
from deployments.startup.start import checked_settings
from deployments.types import StageName


def build(args: Mapping[str, Any] | AppConfig) -> Application:
    """The stages bound to each other. `args` is what stands below `args:` in the Serve config file.

    Raises `RayServeException`, which Serve shows as one sentence and not as a traceback, for settings that can't work.
    """
    try:
        config = checked_settings(args, __file__, alone=not ray.is_initialized() or len(ray.nodes()) == 1)
    except WrongSetting as error:
        raise RayServeException(str(error)) from None
    if config.placement == "together":
        fetcher: Application | Hosted = _hosted(MediaFetcher, config)
    else:
        fetcher = _bound(found_again(MediaFetcher, StageName.FETCH, config), config)
    return _bound(
        Ingress,
        config,
        fetcher=fetcher,
        decoder=_bound(found_again(VideoDecoder, StageName.VIDEO_DECODE, config), config, fetcher=fetcher),
        models={model.name: _bound_stages(model) for model in served_models(config)},
    )


def _bound_stages(model: ServedModel) -> tuple[Application | Hosted, ...]:
    """The preprocessor, the model, and the encoder if it has one."""
    divided = with_ranks(found_again(Model, StageName.MODEL, model.config), model.config)
    if model.config.placement == "together":
        preprocessor: Application | Hosted = _hosted(Preprocessor, model.config)
    else:
        preprocessor = _bound(_named(Preprocessor, model.preprocessor), model.config)
    bound = [preprocessor, _bound(_named(divided, model.model), model.config)]
    if model.encoder is not None:
        encoder = found_again(Encoder, StageName.ENCODE, model.config)
        bound.append(_bound(_named(encoder, model.encoder), model.config))
    return tuple(bound)


def _hosted(deployment: Any, config: AppConfig) -> Hosted:
    return Hosted(deployment.func_or_class, config)


def _named(deployment: Any, name: str) -> Any:
    return deployment.options(name=name)


def _bound(deployment: Any, config: AppConfig, **stages: Any) -> Application:
    """`deployment.bind(...)`: to a type checker a decorated class is still the class that it was."""
    bound: Application = deployment.bind(config, **stages)
    return bound
