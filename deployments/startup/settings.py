"""Settings as they stand in a file, to `AppConfig`; what is wrong with them is said in one sentence."""

import difflib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from deployments.config import AppConfig, ModelConfig


class WrongSetting(ValueError):
    """A setting with which the application can't start. The message is one sentence and stands alone."""


def read_settings(args: Mapping[str, Any], where: str = "args") -> AppConfig:
    """What stands below `args:`, checked. Raises `WrongSetting` for the first thing that is wrong."""
    try:
        return AppConfig.model_validate(args)
    except ValidationError as error:
        raise WrongSetting(said_of(error, AppConfig, where)) from None


def said_of(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first mistake that pydantic found in a tree for `model`; `where` is the tree's own place in the file."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    place = ".".join([where, *path] if where else path)
    if first["type"] == "extra_forbidden":
        section = _section(model, path[:-1])
        return unknown(path[-1], place.rpartition(".")[0], section.model_fields)
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {message[:1].lower()}{message[1:]}"


def unknown(key: str, where: str, known: Iterable[str]) -> str:
    """The sentence for a key that nobody reads, with the one that was probably meant."""
    known = sorted(known)
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
    return f"{where or 'the file'} has an unknown key {key!r}: {hint}"


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The class of a section, by the type of its field, also where it may be left out; None for a setting."""
    types = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    return next((one for one in types if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _section(model: type[BaseModel], path: Iterable[str]) -> type[BaseModel]:
    names = iter(path)
    for name in names:
        annotation = model.model_fields[name].annotation
        if annotation == dict[str, ModelConfig]:
            next(names)  # whatever the model is called
            annotation = ModelConfig
        section = section_of(annotation)
        assert section is not None
        model = section
    return model
