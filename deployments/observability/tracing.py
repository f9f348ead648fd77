"""Whether this process records spans, and what it needs for that."""

from collections.abc import Mapping
from importlib.util import find_spec

from deployments.config import TracingConfig
from deployments.observability.spans import NO_TRACER, Fact, Tracer

EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def check_packages(config: TracingConfig, exporter: str = EXPORTER) -> None:
    """Raise `RuntimeError` when tracing is on and what it needs, `exporter`, is not installed."""
    if config.otlp_endpoint is not None and find_spec(exporter) is None:
        raise RuntimeError(
            "`tracing.otlp_endpoint` is set, but the packages for it are missing: pip install 'sluice[tracing]'"
        )


def open_tracer(config: TracingConfig, replica: Mapping[str, Fact]) -> Tracer:
    """The tracer of this process. `replica`: attributes that say whose it is. Raises as `check_packages`."""
    if config.otlp_endpoint is None:
        return NO_TRACER
    check_packages(config)
    from deployments.observability.otlp import (
        otlp_tracer,  # only where the packages are there, and only when they are used
    )

    return otlp_tracer(config, replica)
