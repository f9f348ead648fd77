"""The optimiser that all stages share."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm


def optimise(
    name: str,
    parameters: list[nn.Parameter],
    loss_of_step: Callable[[int], tuple[Tensor, dict[str, float]]],
    steps: int,
    peak_rate: float,
) -> None:
    """AdamW with a warm-up of 100 steps and a cosine to a fiftieth; a progress bar shows the figures of the loss."""
    optimiser = torch.optim.AdamW(parameters, lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    bar = tqdm(range(steps), desc=name, mininterval=10)
    shown: dict[str, float] = {}
    for step in bar:
        rate = peak_rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, figures = loss_of_step(step)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        shown = {key: shown.get(key, value) * 0.98 + value * 0.02 for key, value in figures.items()}
        bar.set_postfix({key: f"{value:.3f}" for key, value in shown.items()}, refresh=False)
