"""What must make the model fail: the same files, spoilt after decoding as a broken pipeline would spoil them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from deployments.demo.dialogue.truth import Question, answer
from deployments.demo.dialogue.wordings import TRAINED
from deployments.demo.evaluation.cases import MediaFile, make_file, random_item
from deployments.demo.evaluation.decoding import Decoded, decode
from deployments.demo.evaluation.offline import Offline
from deployments.demo.evaluation.tables import markdown
from deployments.demo.synth.scenes import TELLING_COLOURS

Spoil = Callable[[Decoded], Decoded]


def reverse_frames(media: Decoded) -> Decoded:
    return _with_frames(media, lambda frames: frames[::-1])


def swap_channels(media: Decoded) -> Decoded:
    return _with_frames(media, lambda frames: frames[..., ::-1])


def freeze_first(media: Decoded) -> Decoded:
    return _with_frames(media, lambda frames: np.repeat(frames[:1], len(frames), axis=0))


def shuffle_frames(media: Decoded) -> Decoded:
    return _with_frames(media, lambda frames: frames[np.random.default_rng(0).permutation(len(frames))])


def drop_sound(media: Decoded) -> Decoded:
    return replace(media, samples=None if media.frames_THWC is not None else np.zeros_like(media.samples))


def stretch_sound(media: Decoded) -> Decoded:
    """As samples at 48 kHz would sound if taken for 16 kHz."""
    return _with_speed(media, 1 / 3)


def squeeze_sound(media: Decoded) -> Decoded:
    return _with_speed(media, 3)


def stretch_times(media: Decoded) -> Decoded:
    return replace(media, fps=None if media.fps is None else media.fps / 4)


def squeeze_times(media: Decoded) -> Decoded:
    return replace(media, fps=None if media.fps is None else media.fps * 4)


def _with_frames(media: Decoded, change: Callable[[np.ndarray], np.ndarray]) -> Decoded:
    assert media.frames_THWC is not None
    return replace(media, frames_THWC=np.ascontiguousarray(change(media.frames_THWC)))


def _with_speed(media: Decoded, speed: float) -> Decoded:
    assert media.samples is not None
    places = np.arange(0, len(media.samples) - 1, speed)
    return replace(media, samples=np.interp(places, np.arange(len(media.samples)), media.samples).astype(np.float32))


TRIALS: tuple[tuple[str, Spoil, str, Question], ...] = (
    ("frames reversed", reverse_frames, "clip", Question.DIRECTION),
    ("frames shuffled", shuffle_frames, "clip", Question.DIRECTION),
    ("first frame only", freeze_first, "clip", Question.DIRECTION),
    ("blue for red (BGR)", swap_channels, "clip", Question.COLOUR),
    ("times stretched 4x", stretch_times, "clip", Question.LENGTH),
    ("times squeezed 4x", squeeze_times, "clip", Question.LENGTH),
    ("sound dropped", drop_sound, "clip with sound", Question.TONE),
    ("sound dropped", drop_sound, "clip with sound", Question.BEEPS),
    ("sound stretched 3x", stretch_sound, "sound", Question.TONE),
    ("sound squeezed 3x", squeeze_sound, "sound", Question.TONE),
    ("sound silenced", drop_sound, "sound", Question.BEEPS),
)


def sensitivity_table(offline: Offline, seed: int, files: int, num_frames: int = 8) -> str:
    """Right answers to the untouched and to the spoilt media, in Markdown."""
    lines = [["spoilt by", "asked", "untouched", "spoilt", "files"]]
    for number, (name, spoil, kind, question) in enumerate(TRIALS):
        right = [0, 0]
        for file in _affected(np.random.default_rng((seed, 99, number)), kind, question, files):
            media = decode(file, num_frames, with_sound=kind == "clip with sound")
            text = TRAINED[question][0].format(where="", item=f"the {file.item.noun}")
            for place, shown in enumerate((media, spoil(media))):
                got = offline.answers_on([file.part], [shown], [text])[0]
                right[place] += got == answer(question, file.item)
        lines.append([name, str(question), *(f"{100 * count / files:.0f} %" for count in right), str(files)])
    return markdown(lines)


def _affected(rng: np.random.Generator, kind: str, question: Question, files: int) -> Iterator[MediaFile]:
    """Files whose right answer the spoiling should change: moving shapes; red, blue and yellow ones."""
    made = 0
    while made < files:
        item = random_item(rng, kind)
        figures = () if item.scene is None else item.scene.figures
        if question is Question.DIRECTION and any(figure.start == figure.end for figure in figures):
            continue
        if question is Question.COLOUR and any(figure.colour not in TELLING_COLOURS for figure in figures):
            continue
        made += 1
        yield make_file(rng, item)
