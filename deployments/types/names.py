"""The words that all stages use, and what a payload is."""

from enum import StrEnum
from typing import Any

from numpy.typing import NDArray

Payload = NDArray[Any] | dict[str, NDArray[Any]]


class MediaKind(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


MODALITIES = ("text", *(kind.value for kind in MediaKind))
"""What a prompt is made of, in the order in which it is told."""


class StageName(StrEnum):
    """Where a request's time goes and where it can fail: in errors, log, metrics, spans, `Server-Timing` and usage."""

    INGRESS = "ingress"
    ADMISSION = "admission"
    FETCH = "fetch"
    VIDEO_DECODE = "video_decode"
    PREPROCESS = "preprocess"
    MODEL = "model"
    # phases of the model stage
    QUEUE = "queue"
    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"


class CacheUse(StrEnum):
    """Whether something was there already, as answers tell it."""

    HIT = "hit"
    REVALIDATED = "revalidated"
    """There already; its host was asked whether it still holds, and sent nothing."""
    MISS = "miss"
    OFF = "off"
    """Nobody looked: the client wants none of it, or the server keeps none."""
