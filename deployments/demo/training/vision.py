"""First stage: the vision tower alone, told by a throwaway head what each token shows.

The language model's loss alone leaves a fresh tower at chance for thousands of steps; a loss on every token does not.
Shape legend: B batch, N tokens of a frame pair, H height, W width.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from deployments.demo.synth.scenes import Colour, Direction, Scene, Shape
from deployments.demo.training.optimiser import optimise
from deployments.demo.training.towers import PATCH, patchify, see
from deployments.demo.training.visuals import Visual

COLOURS, SHAPES, DIRECTIONS = list(Colour), list(Shape), list(Direction)
GROUND = len(COLOURS)
"""Class of a token that shows no shape."""
PATCHES = 4096
"""Of one step."""
HEAD_PARTS = [len(COLOURS) + 1, len(SHAPES), len(DIRECTIONS), 1]
"""Colour or ground, shape, direction, share covered."""
NOISE = np.random.default_rng(0).standard_normal(65521, np.float32)
"""Shuffled and repeated: drawing millions of numbers a step would cost more than the tower."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """A batch of frame pairs of one size and the truth of each."""

    frames_BTCHW: NDArray[np.uint8]
    covered_BN: Tensor
    colour_B: Tensor
    shape_B: Tensor
    direction_B: Tensor


def train_vision(
    model: Qwen2_5OmniThinkerForConditionalGeneration, pool: Sequence[Visual], steps: int, seed: int
) -> None:
    """Train `model`'s vision tower in place on frame pairs of `pool`."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    head = nn.Linear(model.config.vision_config.out_hidden_size, sum(HEAD_PARTS))
    by_size: dict[tuple[int, ...], list[Visual]] = defaultdict(list)
    for visual in pool:
        by_size[visual.frames_TCHW.shape[2:]].append(visual)
    sizes = list(by_size)
    share = np.array([sum(len(visual.frames_TCHW) + 1 for visual in by_size[size]) for size in sizes], float)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        height, width = size = sizes[rng.choice(len(sizes), p=share / share.sum())]
        count = PATCHES // (height * width // PATCH**2)
        pairs = random_pairs(rng, by_size[size], count)
        tokens = see(model, patchify(pairs.frames_BTCHW), height, width)
        return dense_loss(head(tokens), pairs)

    parameters = [*model.model.visual.parameters(), *head.parameters()]
    optimise("vision", parameters, loss_of_step, steps, peak_rate=2e-3)


def random_pairs(rng: np.random.Generator, visuals: Sequence[Visual], count: int) -> Pairs:
    """Frame pairs of random visuals of one size; mirrored, reversed, brightened and made noisy by chance."""
    frames, covered, scenes = [], [], []
    for index in rng.integers(0, len(visuals), count):
        pair, tokens, scene = _random_pair(rng, visuals[index])
        frames.append(pair)
        covered.append(tokens)
        scenes.append(scene)
    return Pairs(
        soil(rng, np.stack(frames)),
        torch.as_tensor(np.stack(covered)).flatten(1),
        torch.tensor([COLOURS.index(scene.colour) for scene in scenes]),
        torch.tensor([SHAPES.index(scene.shape) for scene in scenes]),
        torch.tensor([DIRECTIONS.index(scene.direction) for scene in scenes]),
    )


def _random_pair(rng: np.random.Generator, visual: Visual) -> tuple[NDArray[np.uint8], NDArray[np.float32], Scene]:
    """Two frames (2, C, H, W) as the processor pairs them, the share covered (gh, gw), and what the pair shows."""
    total, scene = len(visual.frames_TCHW), visual.scene
    first = 2 * int(rng.integers(0, (total + 1) // 2))
    # A picture and a clip's odd last frame are doubled by the processor.
    picked = [first, min(first + 1, total - 1)]
    if rng.random() < 0.5:
        picked, scene = picked[::-1], scene.reversed()
    frames = visual.frames_TCHW[picked]
    covered = visual.covered[picked].astype(np.float32).max(0)
    if rng.random() < 0.5:
        frames, covered, scene = frames[..., ::-1], covered[:, ::-1], scene.mirrored()
    if picked[0] == picked[1]:
        scene = scene.frozen()
    return frames, covered, scene


def soil(rng: np.random.Generator, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Add noise and change the brightness of each of frames (B, T, C, H, W), a little."""
    batch = len(frames)
    gain = rng.uniform(0.92, 1.06, (batch, 1, 1, 1, 1)).astype(np.float32)
    strength = rng.uniform(0, 4, (batch, 1, 1, 1, 1)).astype(np.float32)
    noise = np.resize(rng.permutation(NOISE), frames.shape)
    return np.clip(frames * gain + noise * strength, 0, 255).astype(np.uint8)


def dense_loss(answers_BNX: Tensor, pairs: Pairs) -> tuple[Tensor, dict[str, float]]:
    """Loss of the head's answers on each token, and the share of right ones where the shape is."""
    colour, shape, direction, share = torch.split(answers_BNX, HEAD_PARTS, dim=2)
    covered = pairs.covered_BN
    on, off = covered > 0.08, covered < 0.005
    tokens = covered.shape[1]
    painted = torch.where(on, pairs.colour_B[:, None], GROUND)
    shapes, directions = (truth[:, None].expand(-1, tokens)[on] for truth in (pairs.shape_B, pairs.direction_B))
    loss = (
        F.cross_entropy(colour[on | off], painted[on | off])
        + F.cross_entropy(shape[on], shapes)
        + F.cross_entropy(direction[on], directions)
        + F.mse_loss(share[..., 0], covered)
    )
    figures = {
        "loss": loss.item(),
        "colour": _right(colour[on], painted[on]),
        "shape": _right(shape[on], shapes),
        "direction": _right(direction[on], directions),
    }
    return loss, figures


def _right(answers: Tensor, truth: Tensor) -> float:
    return (answers.argmax(1) == truth).float().mean().item()
