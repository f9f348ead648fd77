"""Where the language stage takes pictures, clips and sounds from: the remembered tokens of frozen towers.

Shape legend: N tokens of an item, D hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from deployments.demo.synth.scenes import Scene
from deployments.demo.synth.sounds import Sound
from deployments.demo.training.audibles import Audible
from deployments.demo.training.audio import stack_mels
from deployments.demo.training.towers import PATCH, hear, patchify, see
from deployments.demo.training.vision import soil
from deployments.demo.training.visuals import Visual

Model: TypeAlias = Qwen2_5OmniThinkerForConditionalGeneration


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture or a clip as the language model gets it."""

    scene: Scene
    tokens_ND: Tensor
    grid_thw: tuple[int, int, int]
    frames: int


@dataclass(frozen=True, slots=True)
class Heard:
    """A sound as the language model gets it."""

    sound: Sound
    tokens_ND: Tensor
    mel_frames: int


class Remembered:
    """The tokens of frozen towers, computed once: three views of each clip, two of each picture."""

    def __init__(
        self,
        model: Model,
        visuals: Sequence[Visual],
        audibles: Sequence[Audible],
        rng: np.random.Generator,
    ) -> None:
        with torch.no_grad():
            seen = [look(model, rng, visual) for visual in visuals for _ in range(2 + (len(visual.frames_TCHW) > 1))]
            self._sounds = [listen(model, audible) for audible in audibles]
        self._clips = [one for one in seen if one.frames > 1]
        self._pictures = [one for one in seen if one.frames == 1]

    def picture(self, rng: np.random.Generator) -> Seen:
        return self._pictures[rng.integers(len(self._pictures))]

    def clip(self, rng: np.random.Generator) -> Seen:
        return self._clips[rng.integers(len(self._clips))]

    def sound(self, rng: np.random.Generator) -> Heard:
        return self._sounds[rng.integers(len(self._sounds))]


def look(model: Model, rng: np.random.Generator, visual: Visual) -> Seen:
    """Encode; mirrored, played backwards, frozen on a frame, brightened and made noisy by chance."""
    frames, scene = visual.frames_TCHW, visual.scene
    if rng.random() < 0.5:
        frames, scene = frames[..., ::-1], scene.mirrored()
    if rng.random() < 0.5:
        frames, scene = frames[::-1], scene.reversed()
    if len(frames) > 1 and rng.random() < 0.04:
        frames, scene = np.repeat(frames[:1], len(frames), 0), scene.frozen()
    padded = np.concatenate((frames, frames[-1:])) if len(frames) % 2 else frames
    pairs = soil(rng, padded[None])[0].reshape(-1, 2, *frames.shape[1:])
    height, width = frames.shape[2:]
    tokens = see(model, patchify(pairs), height, width).flatten(0, 1)
    return Seen(scene, tokens, (len(pairs), height // PATCH, width // PATCH), len(frames))


def listen(model: Model, audible: Audible) -> Heard:
    """Encode."""
    features, lengths = stack_mels([audible])
    return Heard(audible.sound, hear(model, features, lengths)[0], lengths[0])
