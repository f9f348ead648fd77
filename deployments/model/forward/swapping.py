"""How a loaded module gets another forward."""

import types
from collections.abc import Callable
from typing import Any

from torch import nn


def swap(module: nn.Module, forward: Callable[..., Any]) -> None:
    """The module stays an instance of its own class, its forward is another."""
    cls = type(module)
    module.__class__ = type(f"Fused{cls.__name__}", (cls,), {"forward": forward})


def with_names(function: Callable[..., Any], names: dict[str, Any]) -> Callable[..., Any]:
    """A copy of a function in which global names mean something else; its module is left as it is."""
    assert isinstance(function, types.FunctionType)
    scope = {**function.__globals__, **names}
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
