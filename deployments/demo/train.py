"""Trains the demo model from nothing: `python -m deployments.demo.train --work DIR`; about an hour on two CPU cores.

Four stages, each kept in DIR when it is done, so that a run can be taken up again: the vision tower, the audio tower,
the language model on frozen towers, and all together. The result replaces the checkpoint in `--out`.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2_5OmniProcessor

from deployments.demo import CHECKPOINT_DIR
from deployments.demo.blueprint import make_model, make_processor, make_tokenizer, save
from deployments.demo.dialogue.conversations import random_corpus
from deployments.demo.training.audibles import Audible, random_audible
from deployments.demo.training.audio import train_audio
from deployments.demo.training.language import train_language
from deployments.demo.training.sources import Live, Model, Remembered
from deployments.demo.training.team import Team, run_team
from deployments.demo.training.vision import train_vision
from deployments.demo.training.visuals import Visual, random_visual

MODEL_SEED, POOL_SEED = 20260, 7
CLIPS, PICTURES, SOUNDS = 1600, 800, 1600
"""In the pools of one process."""
STEPS = {"vision": 1000, "audio": 1000, "language": 3000, "joint": 200}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for."""

    work: Path
    out: Path
    device: str
    scale: float
    """Of the pools and the steps: 0.01 tries everything out within a minute."""

    def some(self, number: int) -> int:
        return max(8, round(number * self.scale))


@dataclass(frozen=True, slots=True)
class Pools:
    """What one process learns from."""

    visuals: list[Visual]
    audibles: list[Audible]


def train(team: Team, plan: Plan) -> None:
    """All stages in one process of the team; the first process writes the files."""
    torch.set_default_device(plan.device)
    rng = np.random.default_rng((POOL_SEED, team.rank))
    processor = make_processor(make_tokenizer(random_corpus(np.random.default_rng(POOL_SEED), 6000)))
    pools = make_pools(rng, plan, processor)
    model = make_model(MODEL_SEED)
    stage(team, plan, "vision", model, lambda steps: train_vision(team, model, pools.visuals, steps, seed=1))
    stage(team, plan, "audio", model, lambda steps: train_audio(team, model, pools.audibles, steps, seed=2))
    stage(team, plan, "language", model, lambda steps: language_stage(team, model, processor, pools, steps))
    stage(team, plan, "joint", model, lambda steps: joint_stage(team, model, processor, pools, steps))
    if team.rank == 0:
        save(plan.out, model, processor)


def make_pools(rng: np.random.Generator, plan: Plan, processor: Qwen2_5OmniProcessor) -> Pools:
    """Draw all media of this process: a minute or two."""
    visuals = [random_visual(rng, clip=True) for _ in range(plan.some(CLIPS))]
    visuals += [random_visual(rng, clip=False) for _ in range(plan.some(PICTURES))]
    return Pools(visuals, [random_audible(rng, processor.feature_extractor) for _ in range(plan.some(SOUNDS))])


def stage(team: Team, plan: Plan, name: str, model: Model, run: Callable[[int], None]) -> None:
    """Load what an earlier run kept of stage `name`, or run it and keep it."""
    kept = plan.work / f"{name}.pt"
    if kept.exists():
        model.load_state_dict(torch.load(kept, map_location=plan.device, weights_only=True))
        return
    run(plan.some(STEPS[name]))
    if team.rank == 0:
        torch.save(model.state_dict(), kept)


def language_stage(team: Team, model: Model, processor: Qwen2_5OmniProcessor, pools: Pools, steps: int) -> None:
    source = Remembered(model, pools.visuals, pools.audibles, np.random.default_rng((3, team.rank)))
    parameters = list(model.model.language_model.parameters())
    train_language(team, model, processor, source, parameters, steps, peak_rate=2e-3, seed=3)


def joint_stage(team: Team, model: Model, processor: Qwen2_5OmniProcessor, pools: Pools, steps: int) -> None:
    source = Live(model, pools.visuals, pools.audibles)
    parameters = list(model.parameters())
    train_language(team, model, processor, source, parameters, steps, peak_rate=2e-4, seed=4, batches=1, name="joint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the finished stages")
    parser.add_argument("--out", type=Path, default=CHECKPOINT_DIR, help="folder of the checkpoint")
    parser.add_argument("--processes", type=int, default=2, help="processes of one thread each that train together")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with one process")
    parser.add_argument("--scale", type=float, default=1.0, help="of the pools and the steps, to try it out")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    plan = Plan(arguments.work, arguments.out, arguments.device, arguments.scale)
    run_team(arguments.processes, train, plan)


if __name__ == "__main__":
    main()
