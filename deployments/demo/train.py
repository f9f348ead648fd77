"""Trains the demo model from nothing: `python -m deployments.demo.train --work DIR`; about an hour on two CPU cores.

The vision tower and the audio tower first, each in a process of its own at the same time; then the language model on
the frozen towers; last a short leg with more wordings. All but the last are kept in DIR, so that a run can be taken up
again. The result goes to the checkpoint in `--out`.
"""

import argparse
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import Qwen2_5OmniProcessor

from deployments.demo import CHECKPOINT_DIR
from deployments.demo.blueprint import make_model, make_processor, make_tokenizer, new_feature_extractor, save
from deployments.demo.dialogue.conversations import random_corpus
from deployments.demo.training.audibles import Audible, random_audible
from deployments.demo.training.audio import train_audio
from deployments.demo.training.language import Leg, train_language
from deployments.demo.training.sources import Model, Remembered
from deployments.demo.training.vision import train_vision
from deployments.demo.training.visuals import Visual, random_visual

MODEL_SEED = 20260
SEEDS = {"vision": 1, "audio": 2, "language": 3, "wordings": 4, "tokenizer": 7}
CLIPS, PICTURES, SOUNDS = 1600, 800, 10_000
STEPS = {"vision": 1100, "audio": 3000, "language": 5200, "wordings": 900}
RATES = {"language": 2e-3, "wordings": 5e-4}
TOWERS = {"vision": "visual", "audio": "audio_tower"}
"""What is trained alone, and its name in the model."""


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

    def kept(self, name: str) -> Path:
        """Where a finished stage is."""
        return self.work / f"{name}.pt"


def train(plan: Plan) -> None:
    """All stages; what DIR holds of an earlier run is taken from there."""
    context = get_context("spawn")
    towers = [context.Process(target=train_tower, args=(name, plan)) for name in TOWERS if not plan.kept(name).exists()]
    for process in towers:
        process.start()
    for process in towers:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a tower's process ended with status {process.exitcode}")
    torch.set_num_threads(1)
    torch.set_default_device(plan.device)
    model, processor = make_model(MODEL_SEED), new_processor()
    for name in TOWERS:
        tower_of(model, name).load_state_dict(torch.load(plan.kept(name), map_location=plan.device, weights_only=True))
    train_reader(model, processor, plan)
    save(plan.out, model, processor)


def new_processor() -> Qwen2_5OmniProcessor:
    return make_processor(make_tokenizer(random_corpus(np.random.default_rng(SEEDS["tokenizer"]), 6000)))


def tower_of(model: Model, name: str) -> nn.Module:
    tower: nn.Module = getattr(model.model, TOWERS[name])
    return tower


def train_tower(name: str, plan: Plan) -> None:
    """Train one tower from nothing and keep it."""
    torch.set_num_threads(1)
    torch.set_default_device(plan.device)
    model, steps, seed = make_model(MODEL_SEED), plan.some(STEPS[name]), SEEDS[name]
    if name == "vision":
        train_vision(model, make_visuals(np.random.default_rng((seed, 1)), plan), steps, seed)
    else:
        train_audio(model, steps, seed)
    torch.save(tower_of(model, name).state_dict(), plan.kept(name))


def train_reader(model: Model, processor: Qwen2_5OmniProcessor, plan: Plan) -> None:
    """Train the language model on what the towers make of fresh pools, then once more with more wordings."""
    rng = np.random.default_rng((SEEDS["language"], 1))
    source = Remembered(model, make_visuals(rng, plan), make_audibles(rng, plan), rng)
    reader, kept = model.model.language_model, plan.kept("language")
    if kept.exists():
        reader.load_state_dict(torch.load(kept, map_location=plan.device, weights_only=True))
    else:
        train_language(model, processor, source, leg_of("language", plan))
        torch.save(reader.state_dict(), kept)
    train_language(model, processor, source, leg_of("wordings", plan))


def leg_of(name: str, plan: Plan) -> Leg:
    return Leg(plan.some(STEPS[name]), SEEDS[name], RATES[name], wide=name == "wordings")


def make_visuals(rng: np.random.Generator, plan: Plan) -> list[Visual]:
    visuals = [random_visual(rng, clip=True) for _ in range(plan.some(CLIPS))]
    return visuals + [random_visual(rng, clip=False) for _ in range(plan.some(PICTURES))]


def make_audibles(rng: np.random.Generator, plan: Plan) -> list[Audible]:
    extractor = new_feature_extractor()
    return [random_audible(rng, extractor) for _ in range(plan.some(SOUNDS))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the finished stages")
    parser.add_argument("--out", type=Path, default=CHECKPOINT_DIR, help="folder of the checkpoint")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--scale", type=float, default=1.0, help="of the pools and the steps, to try it out")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    plan = Plan(arguments.work, arguments.out, arguments.device, arguments.scale)
    train(plan)


if __name__ == "__main__":
    main()
