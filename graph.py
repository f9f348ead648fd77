"""The application's shape, and nothing else: which stage calls which. `serve run serve_config.yaml` starts here.

Ingress ──► MediaFetcher ──► VideoDecoder
   │             │                │          (references to their payloads, never the payloads)
   ├─────────────┴───────► Preprocessor
   └─────────────────────────────────────► Model
"""

from typing import Any

from ray.serve import Application

from deployments.config import AppConfig
from deployments.decoder.deployment import VideoDecoder
from deployments.fetcher.deployment import MediaFetcher
from deployments.ingress.deployment import Ingress
from deployments.model.deployment import Model
from deployments.observability.tracing import check_packages
from deployments.preprocessor.deployment import Preprocessor


def build(args: AppConfig) -> Application:
    """The five stages bound to each other. `args` is what stands below `args:` in the Serve config file."""
    check_packages(args.tracing)
    return _bound(
        Ingress,
        args,
        fetcher=_bound(MediaFetcher, args),
        decoder=_bound(VideoDecoder, args),
        preprocessor=_bound(Preprocessor, args),
        model=_bound(Model, args),
    )


def _bound(deployment: Any, args: AppConfig, **stages: Application) -> Application:
    """`deployment.bind(...)`: to a type checker a decorated class is still the class that it was."""
    bound: Application = deployment.bind(args, **stages)
    return bound
