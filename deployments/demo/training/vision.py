"""First stage: the vision tower alone, told by a throwaway head what each token shows.

The language model's loss alone leaves a fresh tower at chance for thousands of steps; a loss on every token does not.
Shape legend: B batch, N tokens of a frame pair.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from deployments.demo.training.optimiser import Kept, Pace, optimise
from deployments.demo.training.pools import COLOURS, DIRECTIONS, SHAPES, Pairs, Pool, random_pairs
from deployments.demo.training.towers import PATCH, patchify, see

GROUND = len(COLOURS)
"""Class of a token that shows no shape."""
HEAD_PARTS = [len(COLOURS) + 1, len(SHAPES), len(DIRECTIONS), 1]
"""Colour or ground, shape, direction, share covered."""
ON, OFF = 0.02, 0.002
"""A token of which more than ON is covered shows the shape, one with less than OFF shows none."""


def vision_head(model: Qwen2_5OmniThinkerForConditionalGeneration) -> nn.Linear:
    return nn.Linear(model.config.vision_config.out_hidden_size, sum(HEAD_PARTS))


def train_vision(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    head: nn.Linear,
    kept: Kept,
    pools: Sequence[Pool],
    patches: int,
    pace: Pace,
    peak_rate: float,
    seed: int,
) -> None:
    """Train `model`'s vision tower in place on frame pairs of `pools`, `patches` of them a step."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    share = np.array([len(pool.frames) + len(pool.first_V) for pool in pools], float)

    def loss_of_step() -> tuple[Tensor, dict[str, Tensor]]:
        pool = pools[rng.choice(len(pools), p=share / share.sum())]
        height, width = pool.size
        pairs = random_pairs(pool, max(1, patches // (height * width // PATCH**2)))
        tokens = see(model, patchify(pairs.frames_BTCHW), height, width)
        return dense_loss(head(tokens), pairs)

    optimise("vision", kept, loss_of_step, pace, peak_rate)


def dense_loss(answers_BNX: Tensor, pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the head's answers on each token, and the share of right ones where a shape is."""
    colour, shape, direction, share = torch.split(answers_BNX, HEAD_PARTS, dim=2)
    on, off = (pairs.share_BN > ON).float(), (pairs.share_BN < OFF).float()
    # A small shape, which few tokens show, counts for nearly as much as a large one.
    on = on / on.sum(1, keepdim=True).clamp(min=1).sqrt()
    truth = torch.where(pairs.share_BN > ON, pairs.colour_BN, GROUND)
    answers = ((colour, truth), (shape, pairs.shape_BN), (direction, pairs.direction_BN))
    losses = [F.cross_entropy(part.flatten(0, 1), true.flatten(), reduction="none") for part, true in answers]
    loss = sum(_mean(one, on.flatten()) for one in losses) + _mean(losses[0], off.flatten())
    loss = loss + 4 * F.mse_loss(share[..., 0], pairs.share_BN)
    with torch.no_grad():
        right = [_mean((part.argmax(2) == true).float().flatten(), on.flatten()) for part, true in answers]
        figures = {"loss": loss.detach(), **dict(zip(("colour", "shape", "direction"), right, strict=True))}
    return loss, figures


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)
