"""The models of an application, each as if it were the only one.

What is asked of a model (its profile, its limits, its prompts and answers) is the same whether others are served beside
it. So whoever works for one is given settings that know of no other: preprocessors, engines and the readers of requests
were not written for several, and need not be. What several models share, the ingress and the stages of media, and how
their deployments are told apart, is decided here and in `graph.py`.
"""

from dataclasses import dataclass

from deployments.config import AppConfig

INGRESS, FETCHER, DECODER = "Ingress", "MediaFetcher", "VideoDecoder"
PREPROCESSOR, MODEL, ENCODER = "Preprocessor", "Model", "Encoder"
"""Names of the deployments."""

READY, IDLE, STARTING, PARTLY_READY, DRAINING = "ready", "idle", "starting", "partly ready", "draining"
"""The `status` that `/ready` tells of the application and of each of its models."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One of them."""

    name: str
    """What clients call it."""
    config: AppConfig
    """The application's settings with this model's at the top level, and no other model in them."""
    section: str
    """Where its settings stand in the file."""
    preprocessor: str
    """Name of its deployment."""
    model: str
    """Likewise."""
    encoder: str | None
    """Likewise; None where the model has its towers itself."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The deployments that it has for itself."""
        return (self.preprocessor, self.model, *filter(None, [self.encoder]))


def served_models(config: AppConfig) -> tuple[ServedModel, ...]:
    """One at least; of several, in the order of the file."""
    if not config.models:
        encoder = ENCODER if config.encoder is not None else None
        return (ServedModel(config.model_name, config, "args", PREPROCESSOR, MODEL, encoder),)
    return tuple(
        ServedModel(
            name,
            config.model_copy(update={**dict(section), "served_model_name": name, "models": {}}),
            f"args.models.{name}",
            f"{PREPROCESSOR}:{name}",
            f"{MODEL}:{name}",
            f"{ENCODER}:{name}" if section.encoder is not None else None,
        )
        for name, section in config.models.items()
    )


def deployment_names(config: AppConfig) -> tuple[str, ...]:
    """Of the whole application, as `graph.build` binds them."""
    models = served_models(config)
    if config.placement == "together":
        return (INGRESS, DECODER, *(name for model in models for name in model.stages if name != model.preprocessor))
    return (INGRESS, FETCHER, DECODER, *(name for model in models for name in model.stages))
