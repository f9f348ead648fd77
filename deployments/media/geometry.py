"""The size a model's processor resizes pixels to: arithmetic on heights and widths, no pixels here.

The rounding follows the processors of transformers to the pixel, so that their own resize becomes a no-op.
"""

import math

from deployments.errors import BadMedia
from deployments.types import ResizeRule

MAX_KEPT_PIXELS = 16 * 2**20
"""Height x width of what is kept of one picture; no model looks at more."""
MAX_ASPECT_RATIO = 200
"""What the processors with a pixel budget accept."""


def target_size(rule: ResizeRule, frames: int, height: int, width: int, label: str | None = None) -> tuple[int, int]:
    """(height, width) in pixels that `rule` gives `frames` frames of `height` x `width`, all at least 1.

    Raises `BadMedia` for sides too unequal to be resized; `label` names the item.
    """
    if rule.kind == "exact":
        return rule.height, rule.width
    if rule.kind == "clip":
        height, width = _at_least(rule.factor, height, width)
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise BadMedia(
            f"{width} x {height} pixels are too narrow: one side may be {MAX_ASPECT_RATIO} times the other", param=label
        )
    if rule.kind == "frame":
        return _within_budget(rule, 1, 1, height, width)
    frames = max(frames, rule.temporal_factor)
    counted = round(frames / rule.temporal_factor) * rule.temporal_factor
    return _within_budget(rule, frames, counted, height, width)


def _at_least(factor: int, height: int, width: int) -> tuple[int, int]:
    """Both sides at least `factor`, in the same proportion."""
    if height >= factor and width >= factor:
        return height, width
    scale = max(factor / height, factor / width)
    return int(height * scale), int(width * scale)


def _within_budget(rule: ResizeRule, frames: int, counted: int, height: int, width: int) -> tuple[int, int]:
    """Judged by the `counted` frames, scaled by the true ones."""
    factor = rule.factor
    rounded_height = round(height / factor) * factor
    rounded_width = round(width / factor) * factor
    pixels = frames * height * width
    if counted * rounded_height * rounded_width > rule.max_pixels:
        shrink = math.sqrt(pixels / rule.max_pixels)
        return _down(height / shrink, factor), _down(width / shrink, factor)
    if counted * rounded_height * rounded_width < rule.min_pixels:
        grow = math.sqrt(rule.min_pixels / pixels)
        return _up(height * grow, factor), _up(width * grow, factor)
    return rounded_height, rounded_width


def _down(side: float, factor: int) -> int:
    return max(factor, math.floor(side / factor) * factor)


def _up(side: float, factor: int) -> int:
    return math.ceil(side / factor) * factor
