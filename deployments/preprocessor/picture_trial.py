"""Whether an image processor only resizes pictures and puts their pixels into another order, and how: then that is done
where they are decoded, and the processor is shown pictures without content, of the size that it would bring them to.

Found out once, on trial pictures: what is made here must equal, byte for byte, what the processor makes, and everything
else that it makes must not depend on the pixels.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torchvision.transforms.v2 import InterpolationMode

from deployments.media.geometry import target_size
from deployments.preprocessor.family import Family
from deployments.preprocessor.handoff import Handoff
from deployments.preprocessor.hf_processor import Expanded
from deployments.preprocessor.media import Media, with_size
from deployments.preprocessor.patches import declared_rule
from deployments.preprocessor.picture_rows import PictureCutter, blank_pictures
from deployments.types import ResizeRule

ROWS_TENSOR = "pixel_values"
ImageSize = dict[str, int] | None
"""As an image processor takes it."""
Expand = Callable[[Media, ImageSize], Expanded]

_MODES = (InterpolationMode.BICUBIC, InterpolationMode.BILINEAR)
_TRIAL_SIDES = ((75, 131), (190, 70), (75, 131), (64, 64))
"""(height, width); two are equal, since processors put such together."""


def find_picture_cutter(images: object, family: Family, handoff: Handoff, expand: Expand) -> PictureCutter | None:
    """What makes the rows of the image processor `images`; None where that does more.

    `expand` calls it on pictures alone, with a `size`, its pixels left as uint8.
    """
    rule = declared_rule(images, family.image_resize, handoff.images)
    if rule is None or family.image_resize is None:
        return None
    area = family.image_resize.factor**2
    shrinking = {"shortest_edge": 4 * area, "longest_edge": 13 * area}
    for cutter in (PictureCutter(rule, mode) for mode in _MODES):
        try:
            if all(_agrees(cutter, family.image_resize, expand, size) for size in (family.image_size, shrinking)):
                return cutter
        except (ValueError, TypeError, RuntimeError, AttributeError, LookupError):
            return None
    return None


def _agrees(cutter: PictureCutter, rule: ResizeRule, expand: Expand, size: ImageSize) -> bool:
    generator, sized = np.random.default_rng(0), with_size(rule, size)
    assert sized is not None, "a rule with a size is a rule"
    pictures = [generator.integers(0, 256, (*sides, 3), np.uint8) for sides in _TRIAL_SIDES]
    resized = [cutter.resized(picture, *target_size(sized, 1, *picture.shape[:2])) for picture in pictures]
    ready = Media(pictures_HWC=[*resized], pictures_at_target=True)
    real = expand(Media(pictures_HWC=[*pictures]), size)
    told = expand(replace(ready, pictures_HWC=blank_pictures(resized)), size)
    made = real.tensors.pop(ROWS_TENSOR)
    return (
        made.dtype == np.uint8
        and np.array_equal(made, cutter.rows(resized))
        and np.array_equal(made, expand(ready, size).tensors[ROWS_TENSOR])
        and real.equals(told)
    )
