"""Where the language stage takes pictures, clips and sounds from: the remembered tokens of frozen towers.

Shape legend: R rows of the table of all tokens, N tokens of an item, D hidden.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from deployments.demo.synth.scenes import Scene
from deployments.demo.synth.sounds import Sound
from deployments.demo.training.audibles import Audible
from deployments.demo.training.audio import mel_frames, stack_mels
from deployments.demo.training.pools import Pool, make_pools, soil
from deployments.demo.training.towers import PATCH, hear, patchify, see
from deployments.demo.training.visuals import Visual

Model: TypeAlias = Qwen2_5OmniThinkerForConditionalGeneration
PATCHES, SOUNDS = 16384, 64
"""Encoded at once."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture or a clip as the language model gets it: where its tokens are in the table."""

    scene: Scene
    rows: range
    grid_thw: tuple[int, int, int]
    frames: int


@dataclass(frozen=True, slots=True)
class Heard:
    """A sound as the language model gets it: where its tokens are in the table."""

    sound: Sound
    rows: range
    mel_frames: int


@dataclass(frozen=True, slots=True)
class Source:
    """What can be asked about; without the tokens themselves, so that it costs a process nothing to have it."""

    clips: Sequence[Seen]
    pictures: Sequence[Seen]
    sounds: Sequence[Heard]

    def picture(self, rng: np.random.Generator) -> Seen:
        return self.pictures[int(rng.integers(len(self.pictures)))]

    def clip(self, rng: np.random.Generator) -> Seen:
        return self.clips[int(rng.integers(len(self.clips)))]

    def sound(self, rng: np.random.Generator) -> Heard:
        return self.sounds[int(rng.integers(len(self.sounds)))]


@torch.no_grad()
def remember(
    model: Model, visuals: Sequence[Visual], audibles: Sequence[Audible], rng: np.random.Generator, views: int
) -> tuple[Tensor, Source]:
    """The table (R, D) of the tokens of frozen towers, computed once, and where each item's are: `views` of visuals."""
    tables: list[Tensor] = []
    seen: list[Seen] = []
    heard: list[Heard] = []
    begin = 0
    for pool, places in make_pools(visuals, str(model.device)):
        for _ in range(views):
            tokens, looks = _look(model, rng, pool, [visuals[place] for place in places], begin)
            tables.append(tokens)
            seen += looks
            begin += len(tokens)
    for tokens, audible in _listen(model, audibles):
        heard.append(Heard(audible.sound, range(begin, begin + len(tokens)), mel_frames(audible)))
        tables.append(tokens)
        begin += len(tokens)
    clips, pictures = ([one for one in seen if (one.frames > 1) == clip] for clip in (True, False))
    return torch.cat(tables), Source(clips, pictures, heard)


def _look(
    model: Model, rng: np.random.Generator, pool: Pool, visuals: Sequence[Visual], begin: int
) -> tuple[Tensor, list[Seen]]:
    """Encode each of `pool`; mirrored, played backwards, frozen on a frame, brightened and made noisy by chance."""
    height, width = pool.size
    grid, tokens = (height // PATCH, width // PATCH), height * width // PATCH**2 // 4
    views, pairs, mirrored = [], [], []
    for visual, first in zip(visuals, pool.first_V.tolist(), strict=True):
        scene, order, mirror = _view(rng, visual)
        rows = range(begin, begin + len(order) * tokens)
        views.append(Seen(scene, rows, (len(order), *grid), len(visual.frames_TCHW)))
        pairs.append(order + first)
        mirrored += [mirror] * len(order)
        begin = rows.stop
    order_P2 = torch.from_numpy(np.concatenate(pairs)).to(pool.frames.device)
    mirrored_P = torch.tensor(mirrored, device=pool.frames.device)
    encoded = []
    count = PATCHES // 4 // tokens
    for some, turned in zip(torch.split(order_P2, count), torch.split(mirrored_P, count), strict=True):
        frames = pool.frames[some]
        frames = torch.where(turned[:, None, None, None, None], frames.flip(-1), frames)
        encoded.append(see(model, patchify(soil(frames)), height, width).flatten(0, 1))
    return torch.cat(encoded), views


def _view(rng: np.random.Generator, visual: Visual) -> tuple[Scene, NDArray[np.int64], bool]:
    """What is to be seen, the numbers of the frames by pairs (P, 2), whether they are mirrored."""
    scene, order = visual.scene, np.arange(len(visual.frames_TCHW))
    mirrored = bool(rng.random() < 0.5)
    if mirrored:
        scene = scene.mirrored()
    if rng.random() < 0.5:
        scene, order = scene.reversed(), order[::-1]
    if len(order) > 1 and rng.random() < 0.04:
        scene, order = scene.frozen(), np.repeat(order[:1], len(order))
    if len(order) % 2:
        order = np.append(order, order[-1])
    return scene, order.reshape(-1, 2), mirrored


def _listen(model: Model, audibles: Sequence[Audible]) -> Iterator[tuple[Tensor, Audible]]:
    ordered = sorted(audibles, key=mel_frames)
    for place in range(0, len(ordered), SOUNDS):
        some = ordered[place : place + SOUNDS]
        features, lengths = stack_mels(some)
        yield from zip(hear(model, features.to(model.device), lengths), some, strict=True)
