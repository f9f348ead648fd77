"""What a request's `mm_processor_kwargs` may change: only towards less work than the server's own values allow."""

from dataclasses import dataclass
from typing import Any

from deployments.errors import BadRequest, shown
from deployments.preprocessor.family import Family

_PARAM = "mm_processor_kwargs"
_EDGES = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
"""The names clients know, and those of transformers for the same."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """`size` that the processor is called with, in transformers' terms; None where it has none."""

    image: dict[str, int] | None
    video: dict[str, int] | None


def request_sizes(asked: tuple[tuple[str, Any], ...], allowed: tuple[str, ...], family: Family) -> Sizes:
    """The family's own sizes, made smaller as one request asks.

    Raises `BadRequest` for keys that are not `allowed` or that this family lacks, and for values over its own.
    """
    pixels = {}
    for key, value in asked:
        if key not in allowed or key not in _EDGES:
            can = ", ".join(sorted(set(allowed) & set(_EDGES))) or "none"
            raise BadRequest(f"{shown(str(key), 40)} can't be set by a request; allowed keys: {can}", param=_PARAM)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadRequest(f"{key} must be a whole number of pixels, at least 1", param=f"{_PARAM}.{key}")
        pixels[key] = value
    if not pixels:
        return Sizes(family.image_size, family.video_size)
    if not any(_has_budget(size) for size in (family.image_size, family.video_size)):
        raise BadRequest("this model's processor has no budget of pixels", param=_PARAM)
    return Sizes(_shrunk(family.image_size, pixels), _shrunk(family.video_size, pixels))


def _has_budget(size: dict[str, int] | None) -> bool:
    return size is not None and set(size) == set(_EDGES.values())


def _shrunk(size: dict[str, int] | None, pixels: dict[str, int]) -> dict[str, int] | None:
    if size is None or not _has_budget(size):
        return size
    ceiling = size["longest_edge"]
    for key, value in pixels.items():
        if value > ceiling:
            raise BadRequest(f"{key} is {value}, the limit is {ceiling}", param=f"{_PARAM}.{key}")
    longest = pixels.get("max_pixels", ceiling)
    shortest = pixels.get("min_pixels", min(size["shortest_edge"], longest))
    if shortest > longest:
        raise BadRequest(f"min_pixels is {shortest}, above max_pixels {longest}", param=f"{_PARAM}.min_pixels")
    return {"shortest_edge": shortest, "longest_edge": longest}
