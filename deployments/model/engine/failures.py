"""What a client is told when something of its request went wrong, and what no replica survives."""

import torch

from deployments.errors import InternalError, SluiceError, StageUnavailable
from deployments.model.parallel.ranks import RankLost

REPLACED_AFTER_S = 10.0
"""When to come back after a failure of the whole replica: hardly any model starts sooner."""


def request_error(error: Exception) -> SluiceError:
    """What a client is told when its own prompt, media or settings made the model fail."""
    if isinstance(error, SluiceError):
        return error
    if is_out_of_memory(error):
        return InternalError("the model's device has no memory left for this request")
    failure = InternalError(f"the model failed on this request ({type(error).__name__})")
    failure.__cause__ = error
    return failure


def engine_error() -> StageUnavailable:
    """What all are told whose requests are with an engine that can't go on, and who come to it until it is replaced."""
    return StageUnavailable("the model's replica has failed and is being replaced", retry_after_s=REPLACED_AFTER_S)


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def is_fatal(error: Exception) -> bool:
    """Whether the device can't be used any more by this process, as after a failed assertion in a kernel; or whether
    those who hold the other parts of the model are gone."""
    if isinstance(error, RankLost):
        return True
    lost = getattr(torch, "AcceleratorError", None)
    return (lost is not None and isinstance(error, lost)) or "device-side assert" in str(error)
