"""First stage: the vision tower alone, told by a throwaway head what each token shows.

The language model's loss alone leaves a fresh tower at chance for thousands of steps; a loss on every token does not.
Shape legend: B batch, F figures, N tokens of a frame pair, K classes.
"""

from collections.abc import Iterator

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
HEAD_PARTS = [len(COLOURS) + 1, len(COLOURS) * len(SHAPES), len(DIRECTIONS), 1]
"""Colour or ground, the shape of what has each colour, direction, share covered."""
ON, OFF = 0.02, 0.002
"""A token of which more than ON is covered shows the shape, one with less than OFF shows none."""


def vision_head(model: Qwen2_5OmniThinkerForConditionalGeneration) -> nn.Linear:
    return nn.Linear(model.config.vision_config.out_hidden_size, sum(HEAD_PARTS))


def train_vision(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    head: nn.Linear,
    kept: Kept,
    pools_of_steps: Iterator[list[Pool]],
    patches: int,
    pace: Pace,
    peak_rate: float,
    seed: int,
) -> None:
    """Train `model`'s vision tower in place on frame pairs, `patches` of them a step, of one of a step's pools."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)

    def loss_of_step() -> tuple[Tensor, dict[str, Tensor]]:
        pools = next(pools_of_steps)
        share = np.array([len(pool.first_V) for pool in pools], float)
        pool = pools[rng.choice(len(pools), p=share / share.sum())]
        height, width = pool.size
        pairs = random_pairs(pool, max(1, patches // (height * width // PATCH**2)))
        tokens = see(model, patchify(pairs.frames_BTCHW), height, width)
        return dense_loss(head(tokens), pairs)

    optimise("vision", kept, loss_of_step, pace, peak_rate)


def dense_loss(answers_BNK: Tensor, pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the head's answers on each token, and the share of right ones where a shape is.

    A token that shows two shapes is to tell both: the language model is asked for both.
    """
    colour_BNK, shapes_BNK, direction_BNK, share_BNK = torch.split(answers_BNK, HEAD_PARTS, dim=2)
    on_BFN = (pairs.shares_BFN > ON).float()
    # A small shape, which few tokens show, counts for nearly as much as a large one.
    weights_BFN = on_BFN / on_BFN.sum(2, keepdim=True).clamp(min=1).sqrt()
    share_BN = pairs.shares_BFN.sum(1).clamp(max=1)
    answers = (
        (_without_the_other(colour_BNK, pairs), pairs.colours_BF),
        (_shape_of_colour(shapes_BNK, pairs), pairs.shapes_BF),
        (direction_BNK[:, None].expand(-1, on_BFN.shape[1], -1, -1), pairs.directions_BF),
    )
    truths = [true_BF[..., None].expand_as(on_BFN) for _, true_BF in answers]
    losses = [_surprise(told, true) for (told, _), true in zip(answers, truths, strict=True)]
    of_ground = _surprise(colour_BNK, torch.full_like(share_BN, GROUND, dtype=torch.long))
    loss = sum(_mean(one, weights_BFN) for one in losses) + _mean(of_ground, (share_BN < OFF).float())
    loss = loss + 4 * F.mse_loss(share_BNK[..., 0], share_BN)
    with torch.no_grad():
        best = [told.argmax(3) for told, _ in answers]
        right = [_mean((told == true).float(), weights_BFN) for told, true in zip(best, truths, strict=True)]
        figures = {"loss": loss.detach(), **dict(zip(("colour", "shape", "direction"), right, strict=True))}
    return loss, figures


def _without_the_other(colour_BNK: Tensor, pairs: Pairs) -> Tensor:
    """For each figure the answers (B, F, N, K) on colours, where that of the other one is no mistake."""
    shown = pairs.shares_BFN.amax(2) > 0
    taken_BFK = F.one_hot(pairs.colours_BF, colour_BNK.shape[2]).bool() & shown[..., None]
    others_BFK = taken_BFK.any(1, keepdim=True) & ~taken_BFK
    return colour_BNK[:, None].masked_fill(others_BFK[:, :, None], -1e4)


def _shape_of_colour(shapes_BNK: Tensor, pairs: Pairs) -> Tensor:
    """For each figure the answers (B, F, N, shapes) on what has its colour."""
    of_colours_BNCK = shapes_BNK.view(*shapes_BNK.shape[:2], len(COLOURS), len(SHAPES))
    rows = torch.arange(len(shapes_BNK), device=shapes_BNK.device)[:, None]
    chosen: Tensor = of_colours_BNCK.transpose(1, 2)[rows, pairs.colours_BF]
    return chosen


def _surprise(answers: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy of answers (..., K) for each of truth (...)."""
    return F.cross_entropy(answers.flatten(0, -2), truth.flatten(), reduction="none").view(truth.shape)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)
