"""The optimiser that all stages share, how long a stage takes, and what is kept of it."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

WARM_UP, LOOK_EVERY, KEEP_EVERY_S = 100, 20, 20.0
"""Steps until the full rate; steps from one look at the figures to the next (each waits for the device)."""
HALVED = ("cuda",)
"""Devices that compute in bfloat16 where it does no harm, for half the traffic; a CPU is slower with it."""


@dataclass(frozen=True, slots=True)
class Pace:
    """A stage ends after `steps` in all, or after `seconds` from now if that comes first."""

    steps: int
    seconds: float | None = None

    def progress(self, before: float, step: int, elapsed_s: float) -> float:
        """0 at the start, 1 at the end; `before` when it was taken up, `step` steps ago."""
        of_time = 0.0 if self.seconds is None else (1 - before) * elapsed_s / self.seconds
        return min(1.0, before + max(step / self.steps, of_time))


@dataclass(frozen=True, slots=True)
class Kept:
    """What a stage trains, in a file with its progress, so that a run that was cut off can be taken up again."""

    path: Path
    module: nn.Module
    also: Callable[[], None] | None = None
    """What else to write whenever this is."""

    def save(self, progress: float) -> None:
        begun = self.path.with_suffix(".part")
        torch.save({"progress": progress, "state": self.module.state_dict()}, begun)
        begun.replace(self.path)
        if self.also is not None:
            self.also()

    def load(self) -> float:
        """Take up what is there; its progress, 0 if there is nothing."""
        if not self.path.exists():
            return 0.0
        held = torch.load(self.path, map_location="cpu", weights_only=True)
        self.module.load_state_dict(held["state"])
        return float(held["progress"])


def optimise(
    name: str,
    kept: Kept,
    loss_of_step: Callable[[], tuple[Tensor, Mapping[str, Tensor]]],
    pace: Pace,
    peak_rate: float,
) -> None:
    """AdamW with a warm-up and a cosine to a fiftieth; a progress bar shows the figures of the loss."""
    done = kept.load()
    parameters = [one for one in kept.module.parameters() if one.requires_grad]
    device = parameters[0].device.type
    optimiser = torch.optim.AdamW(parameters, lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    begun, saved, step, before = time.monotonic(), time.monotonic(), 0, done
    with tqdm(total=100, initial=round(100 * done), desc=name, unit="%", mininterval=5) as bar:
        while done < 1:
            rate = peak_rate * min(1, (step + 1) / WARM_UP) * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
            for group in optimiser.param_groups:
                group["lr"] = rate
            with torch.autocast(device, torch.bfloat16, enabled=device in HALVED):
                loss, figures = loss_of_step()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            done = pace.progress(before, step, time.monotonic() - begun)
            if step % LOOK_EVERY == 0:
                bar.set_postfix({key: f"{value.item():.3f}" for key, value in figures.items()} | {"step": step}, False)
                bar.update(round(100 * done) - bar.n)
            if time.monotonic() - saved > KEEP_EVERY_S:
                kept.save(done)
                saved = time.monotonic()
    kept.save(1.0)
