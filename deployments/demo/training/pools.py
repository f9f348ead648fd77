"""Pictures and clips of one size on the device, and frame pairs of them by the hundred.

Shape legend: V visuals, S frames of all visuals, B batch, F figures, N tokens of a frame pair, H height, W width.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deployments.demo.synth.scenes import MIRRORED, REVERSED, Colour, Direction, Shape
from deployments.demo.training.visuals import Visual

COLOURS, SHAPES, DIRECTIONS = list(Colour), list(Shape), list(Direction)
MAX_FIGURES = 2


class Pairs(NamedTuple):
    """A batch of frame pairs of one size, and of each its figures: where they are not, they cover nothing."""

    frames_BTCHW: Tensor
    shares_BFN: Tensor
    """How much of each token each figure covers."""
    colours_BF: Tensor
    shapes_BF: Tensor
    directions_BF: Tensor


@dataclass(frozen=True, slots=True)
class Pool:
    """Visuals of one size."""

    frames: Tensor
    """(S, C, H, W), uint8."""
    covered: Tensor
    """(S, MAX_FIGURES, gh, gw): share of each token that each figure covers."""
    first_V: Tensor
    count_V: Tensor
    visual_S: Tensor
    """Of which visual a frame is."""
    truths: Tensor
    """(V, MAX_FIGURES, 3): numbers of colour, shape and direction."""

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.frames.shape[2:]
        return height, width


def make_pools(visuals: Sequence[Visual], device: str) -> list[tuple[Pool, list[int]]]:
    """A pool for each size, and the places in `visuals` of those it holds."""
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, visual in enumerate(visuals):
        by_size[visual.frames_TCHW.shape[2:]].append(place)
    return [(_make_pool([visuals[place] for place in places], device), places) for places in by_size.values()]


def _make_pool(visuals: Sequence[Visual], device: str) -> Pool:
    counts = np.array([len(visual.frames_TCHW) for visual in visuals])
    truths = np.zeros((len(visuals), MAX_FIGURES, 3), np.int64)
    covered = []
    for number, visual in enumerate(visuals):
        shares = np.zeros((MAX_FIGURES, *visual.covered.shape[1:]), np.float16)
        shares[: len(visual.covered)] = visual.covered
        covered.append(shares.swapaxes(0, 1))
        for place, figure in enumerate(visual.scene.figures):
            truths[number, place] = (
                COLOURS.index(figure.colour),
                SHAPES.index(figure.shape),
                DIRECTIONS.index(figure.direction),
            )
    return Pool(
        torch.from_numpy(np.concatenate([visual.frames_TCHW for visual in visuals])).to(device),
        torch.from_numpy(np.concatenate(covered)).to(device),
        torch.from_numpy(np.cumsum(counts) - counts).to(device),
        torch.from_numpy(counts).to(device),
        torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device),
        torch.from_numpy(truths).to(device),
    )


def random_pairs(pool: Pool, count: int) -> Pairs:
    """Frame pairs as the processor makes them; mirrored, reversed, brightened and made noisy by chance."""
    device = pool.frames.device
    # Half of them by visual, half by frame: clips show more than pictures, but not by as much as they have frames.
    some = torch.randint(len(pool.first_V), (count,), device=device)
    others = pool.visual_S[torch.randint(len(pool.frames), (count,), device=device)]
    chosen = torch.where(torch.rand(count, device=device) < 0.5, some, others)
    frames_of = pool.count_V[chosen]
    # A picture and a clip's odd last frame are doubled by the processor.
    first = (torch.rand(count, device=device) * ((frames_of + 1) // 2)).long() * 2
    second = torch.minimum(first + 1, frames_of - 1)
    mirrored, reversed_ = (torch.rand(count, device=device) < 0.5 for _ in range(2))
    order = torch.where(reversed_[:, None], torch.stack((second, first), 1), torch.stack((first, second), 1))
    picked = order + pool.first_V[chosen][:, None]
    frames = soil(_mirror(pool.frames[picked], mirrored))
    covered = _mirror(pool.covered[picked].amax(1), mirrored).flatten(2)
    colours_BF, shapes_BF, directions_BF = pool.truths[chosen].unbind(2)
    directions_BF = torch.gather(_turns(device)[mirrored.long(), reversed_.long()], 1, directions_BF)
    directions_BF = torch.where((first == second)[:, None], DIRECTIONS.index(Direction.STILL), directions_BF)
    return Pairs(frames, covered.float(), colours_BF, shapes_BF, directions_BF)


def soil(frames_BTCHW: Tensor) -> Tensor:
    """Floats with noise and a changed brightness, a little, of each of the frames (0 to 255)."""
    batch, device = len(frames_BTCHW), frames_BTCHW.device
    gain, strength = torch.rand(2, batch, 1, 1, 1, 1, device=device)
    # One pattern for all, stronger or weaker, or its negative: one for each would cost as much as a layer.
    noise = torch.randn((1, *frames_BTCHW.shape[1:]), device=device)
    soiled: Tensor = (frames_BTCHW * (0.92 + gain * 0.14) + noise * (strength * 8 - 4)).clamp(0, 255)
    return soiled


def _mirror(tensor: Tensor, chosen_B: Tensor) -> Tensor:
    return torch.where(chosen_B.view(-1, *[1] * (tensor.ndim - 1)), tensor.flip(-1), tensor)


def _turns(device: torch.device) -> Tensor:
    """(2, 2, directions): what each direction becomes, by whether it is mirrored and whether it is reversed."""
    turns = []
    for mirrored in (False, True):
        for back in (False, True):
            seen = [REVERSED.get(one, one) if back else one for one in DIRECTIONS]
            seen = [MIRRORED.get(one, one) if mirrored else one for one in seen]
            turns.append([DIRECTIONS.index(one) for one in seen])
    return torch.tensor(turns, device=device).view(2, 2, -1)
