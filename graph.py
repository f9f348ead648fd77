"""The application's shape, and nothing else: which stage calls which. `serve run serve_config.yaml` starts here.

Ingress ──► MediaFetcher ──► VideoDecoder
   │             │                │          (references to their payloads, never the payloads)
   ├─────────────┴───────► Preprocessor
   └─────────────────────────────────────► Model
"""

from ray.serve import Application

from deployments.config import AppConfig
from deployments.decoder.deployment import VideoDecoder
from deployments.fetcher.deployment import MediaFetcher
from deployments.ingress.deployment import Ingress
from deployments.model.deployment import Model
from deployments.preprocessor.deployment import Preprocessor


def build(args: AppConfig) -> Application:
    """The five stages bound to each other. `args` is what stands below `args:` in the Serve config file."""
    return Ingress.bind(
        args,
        fetcher=MediaFetcher.bind(args),
        decoder=VideoDecoder.bind(args),
        preprocessor=Preprocessor.bind(args),
        model=Model.bind(args),
    )
