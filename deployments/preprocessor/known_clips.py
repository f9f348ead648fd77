"""What a processor makes of clips without their pixels, kept for the next question about them.

That depends on sizes and times alone. Of a prompt about known clips only the tokens are made: a third of the work. That
a processor keeps to this is tried before it is believed.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import replace

from deployments.errors import SluiceError
from deployments.preprocessor.hf_processor import TYPES_TENSOR, Expanded, HfProcessor
from deployments.preprocessor.limits import Sizes
from deployments.preprocessor.media import Clip, Media, blank_frames
from deployments.preprocessor.prompt import Prompt
from deployments.types import DecodedVideo, PatchRule

MAX_KNOWN = 256
"""Requests' clips: some kilobytes each."""


class KnownClips:
    """The least recently used leave first. For several threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, Expanded] = OrderedDict()
        self._lock = threading.Lock()

    def expand(self, processor: HfProcessor, prompt: Prompt, media: Media, sizes: Sizes, raw_pixels: bool) -> Expanded:
        """As `processor.expand`; `media`: such as `are_blank`."""
        key = tuple(_facts(clip) for clip in media.clips), repr(sizes), raw_pixels
        with self._lock:
            known = self._known.get(key)
        expanded = None if known is None else reworded(processor, prompt, known)
        if expanded is None:
            expanded = processor.expand(prompt, media, sizes, raw_pixels)
        with self._lock:
            self._known[key] = replace(expanded, tensors=dict(expanded.tensors))  # whose it is may change his own
            self._known.move_to_end(key)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return expanded


def find_known_clips(processor: HfProcessor, prompts: Sequence[Prompt], media: Media) -> KnownClips | None:
    """None where `processor` makes more of a text than its tokens. `prompts`: two with the places of `media`, which
    `are_blank`, and with different texts around them."""
    try:
        known, wanted = (processor.expand(prompt, media, Sizes(None, None), raw_pixels=True) for prompt in prompts)
        found = reworded(processor, prompts[1], known)
    except (SluiceError, ValueError, TypeError, RuntimeError, AttributeError, LookupError):
        return None
    return KnownClips() if found is not None and found.equals(wanted) else None


def are_blank(media: Media) -> bool:
    """Whether all there is are clips without content."""
    others = media.pictures_HWC or media.sounds or media.embeds
    return bool(media.clips) and not others and all(clip.frames_TCHW.is_meta for clip in media.clips)


def trial_media(rule: PatchRule) -> Media:
    """Two clips of different sizes and rates."""
    side = rule.patch * rule.merge
    return Media(clips=[_trial_clip(4, 2 * side, 3 * side, 2.0), _trial_clip(6, 3 * side, side, 1.0)])


def reworded(processor: HfProcessor, prompt: Prompt, known: Expanded) -> Expanded | None:
    """`known` with the text of `prompt` around its media; None where that does not have the same places."""
    places = [str(said["text"]) for said in known.replacements]
    if not places:
        return None
    pieces = re.split(f"({'|'.join(map(re.escape, sorted(set(places), key=len, reverse=True)))})", prompt.text)
    if pieces[1::2] != places:
        return None
    pieces[1::2] = [str(said["replacement"]) for said in known.replacements]
    ids, types = processor.read("".join(pieces), prompt.add_special_tokens)
    return Expanded(ids, {**known.tensors, TYPES_TENSOR: types}, known.replacements)


def _facts(clip: Clip) -> Hashable:
    return replace(clip.video, decode_s=0.0), tuple(clip.frames_TCHW.shape), clip.at_target


def _trial_clip(frames: int, height: int, width: int, fps: float) -> Clip:
    times = tuple(number / fps for number in range(frames))
    video = DecodedVideo(fps, frames / fps, frames, tuple(range(frames)), times, height, width, 0, "", 0, 0.0)
    return Clip(blank_frames(frames, height, width), video, at_target=True)
