"""Whether a processor only puts the pixels of ready frames into another order, and which: then the decoder can do that,
its patches go straight to the model, and the processor is shown frames without content.

Found out once, on trial clips: what the processor makes of frames must equal, byte for byte, what the decoder
would deliver, and everything else that it makes must not depend on the pixels.
"""

from collections.abc import Callable

import numpy as np
import torch

from deployments.media.patches import PatchStack
from deployments.preprocessor.family import Family
from deployments.preprocessor.handoff import Handoff
from deployments.preprocessor.hf_processor import Expanded
from deployments.preprocessor.media import Clip, Media, blank_frames
from deployments.types import DecodedVideo, MediaKind, PatchRule, PixelNorm, ResizeRule

PATCHES_TENSOR = "pixel_values_videos"
_TRIALS = ((4, 2, 3), (3, 4, 2))
"""(frames, merged patches in height, in width); three frames leave a row half empty."""


def find_patch_rule(
    processor: object, family: Family, handoff: Handoff, expand: Callable[[Media], Expanded]
) -> PatchRule | None:
    """The order of `processor`'s pixels; None where it does more than ordering. `expand` calls it on one clip."""
    if MediaKind.IMAGE in family.modalities and handoff.images != handoff.videos:
        return None  # a request with both would need floats
    rule = declared_rule(getattr(processor, "video_processor", None), family.video_resize, handoff.videos)
    if rule is None:
        return None
    try:
        return rule if all(_agrees(rule, expand, *trial) for trial in _TRIALS) else None
    except (ValueError, TypeError, RuntimeError, AttributeError, LookupError):
        return None


def declared_rule(part: object, resize: ResizeRule | None, norm: PixelNorm | None) -> PatchRule | None:
    """The order that a `part` of a processor declares, where it makes whole rows of what `resize` gives; untried."""
    sizes = [getattr(part, name, None) for name in ("patch_size", "merge_size", "temporal_patch_size")]
    if not all(isinstance(size, int) for size in sizes) or norm is None or resize is None:
        return None
    rule = PatchRule(*sizes)  # type: ignore[arg-type]
    whole_rows = resize.kind != "exact" and resize.factor == rule.patch * rule.merge
    return rule if whole_rows and norm.patch_layout == "flat_channel_major" else None


def _agrees(rule: PatchRule, expand: Callable[[Media], Expanded], frames: int, high: int, wide: int) -> bool:
    height, width = high * rule.patch * rule.merge, wide * rule.patch * rule.merge
    pixels = np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)
    stack = PatchStack(rule, frames, height, width)
    for number, frame in enumerate(pixels):
        stack.put(number, [frame[..., channel] for channel in range(3)])
    times = tuple(number / 2 for number in range(frames))
    facts = DecodedVideo(2.0, frames / 2, frames, tuple(range(frames)), times, height, width, 0, "", 0, 0.0)
    real = expand(Media(clips=[Clip(torch.from_numpy(pixels).permute(0, 3, 1, 2), facts, True)]))
    blank = expand(Media(clips=[Clip(blank_frames(frames, height, width), facts, True)]))
    made = real.tensors.pop(PATCHES_TENSOR)
    return made.dtype == np.uint8 and np.array_equal(made, stack.finish()) and real.equals(blank)
