"""A model of which only a part is loaded: its towers without the language model, or that without the towers.

transformers' own classes, cut as soon as they have been built on the meta device: of what is cut away a checkpoint's
weights are not even read. What stands in its place has the modules' plain attributes (sizes, configuration) and no
weights; calling it fails.
"""

from enum import Enum, auto
from typing import Any

from torch import nn

from deployments.errors import InternalError


class Part(Enum):
    WHOLE = auto()
    TOWERS = auto()
    """What encodes media, up to the rows that go into a prompt."""
    LANGUAGE = auto()
    """What reads prompts with these rows in them, and writes answers."""


class Absent(nn.Module):
    """In the place of modules that are not here."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        vars(self).update({name: value for name, value in vars(module).items() if not name.startswith("_")})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise InternalError("a part of the model was asked that is not loaded here")


def having(part: Part, model_class: Any) -> Any:
    """The class whose instances have that part alone, from the moment in which they are built."""

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, config, *args, **kwargs)
        cut(self, part)

    return type(model_class.__name__, (model_class,), {"__init__": build, "__module__": model_class.__module__})


def cut(model: Any, part: Part) -> None:
    """Put stand-ins in the place of all that is not of `part`. Raises `InternalError` where there are no towers."""
    language = [model.get_decoder(), model.get_output_embeddings()]
    towers = list(_beside(model, language))
    if not towers:
        raise InternalError(f"models of the family {model.config.model_type!r} have no towers: they need no encoder")
    gone = towers if part is Part.LANGUAGE else [module for module in language if module is not None]
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if any(child is module for module in gone):
                setattr(parent, name, Absent(child))
    held = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied = model.all_tied_weights_keys
    model.all_tied_weights_keys = {one: other for one, other in tied.items() if {one, other} <= held}
    model._keys_to_ignore_on_load_unexpected = {".*"}  # the checkpoint has what is not wanted here


def _beside(module: nn.Module, language: list[Any]) -> Any:
    """The topmost modules that have nothing of the language model in them."""
    for child in module.children():
        if any(child is one for one in language):
            continue
        if any(inner is one for inner in child.modules() for one in language):
            yield from _beside(child, language)
        else:
            yield child
