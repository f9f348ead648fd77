"""The models that clients may ask, by their names, each with settings that know of no other."""

from deployments.config import AppConfig
from deployments.errors import BadRequest, ModelNotFound, shown
from deployments.served_model import served_models

ADAPTER_MARK = ":"
"""Between the name of a model and that of an adapter, as other servers have it."""


class Models:
    """Read from the application's settings, once."""

    def __init__(self, config: AppConfig) -> None:
        self._configs = {model.name: model.config for model in served_models(config)}

    @property
    def names(self) -> tuple[str, ...]:
        """At least one."""
        return tuple(self._configs)

    def named(self, name: str) -> AppConfig:
        """Its settings. Raises `ModelNotFound`."""
        config = self._configs.get(name)
        if config is None:
            raise ModelNotFound(f"the model {shown(name)!r} does not exist; {self._said(name)}", param="model")
        return config

    def named_or_only(self, name: object) -> str:
        """The name itself; where none is given, that of a server's only model.

        Raises `ModelNotFound`, and `BadRequest` where there are several to choose from.
        """
        if name is None and len(self._configs) == 1:
            return self.names[0]
        if not isinstance(name, str):
            raise BadRequest(f"`model` is missing; {self._said('')}", param="model")
        self.named(name)
        return name

    def _said(self, name: str) -> str:
        base, mark, adapter = name.partition(ADAPTER_MARK)
        if mark and base in self._configs:
            return (
                f"this server loads no adapters beside {base!r}: merged into its weights, {shown(adapter)!r} can be"
                " served as a model of its own"
            )
        return f"this server has {', '.join(map(repr, self._configs))}"
