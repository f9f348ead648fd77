"""Two or more training processes that average their gradients, and the optimiser that all stages share."""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm


@dataclass(frozen=True, slots=True)
class Team:
    """Who this process is among those that train together."""

    rank: int
    size: int

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the team."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def run_team(size: int, work: Callable[..., None], *arguments: object) -> None:
    """Run `work(team, *arguments)` in `size` processes of one thread each; here when `size` is 1."""
    if size == 1:
        work(Team(0, 1), *arguments)
        return
    store = Path("/tmp") / f"demo-team-{os.getpid()}"
    spawn(_join, (size, str(store), work, arguments), nprocs=size)  # type: ignore[no-untyped-call]


def _join(rank: int, size: int, store: str, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    work(Team(rank, size), *arguments)
    dist.destroy_process_group()


def optimise(
    team: Team,
    name: str,
    parameters: list[nn.Parameter],
    loss_of_step: Callable[[int], tuple[Tensor, dict[str, float]]],
    steps: int,
    peak_rate: float,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """AdamW with a warm-up of 100 steps and a cosine to a twentieth; a progress bar shows the figures of the loss."""
    optimiser = torch.optim.AdamW(parameters, lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.01)
    bar = tqdm(range(steps), desc=name, disable=team.rank != 0, mininterval=10)
    shown: dict[str, float] = {}
    for step in bar:
        rate = peak_rate * min(1, (step + 1) / 100) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, figures = loss_of_step(step)
        torch.autograd.backward(loss)
        team.average(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        shown = {key: shown.get(key, value) * 0.98 + value * 0.02 for key, value in figures.items()}
        bar.set_postfix({key: f"{value:.3f}" for key, value in shown.items()}, refresh=False)
        if after_step is not None:
            after_step(step)
