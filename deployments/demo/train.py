"""Trains the demo model: `python -m deployments.demo.train --work DIR [--device cuda] [--workers 14] [--budget-s 200]`.

The vision tower and the audio tower first; then the language model on the frozen towers; last a short leg with more
wordings. Media and questions are made by worker processes. What is trained is kept in DIR every twenty seconds, so that
a run that was cut off can be taken up again. The result goes to the checkpoint in `--out`. From nothing it takes some
hours on two CPU cores; `--start` goes on from an earlier checkpoint of the same shape.
"""

import argparse
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from deployments.demo import CHECKPOINT_DIR
from deployments.demo.blueprint import (
    load_tokenizer,
    make_model,
    make_processor,
    make_tokenizer,
    new_feature_extractor,
    save,
)
from deployments.demo.dialogue.conversations import random_corpus
from deployments.demo.training.audibles import Audible, random_audible
from deployments.demo.training.audio import audio_head, train_audio
from deployments.demo.training.batches import Batches, batches
from deployments.demo.training.glimpses import fresh_pools, glimpses
from deployments.demo.training.language import Leg, language_head, train_language
from deployments.demo.training.optimiser import Kept, Pace
from deployments.demo.training.sequences import Sequencer
from deployments.demo.training.sources import Model, remember
from deployments.demo.training.vision import train_vision, vision_head
from deployments.demo.training.visuals import Visual, random_visual
from deployments.demo.training.workers import make_many, use_one_thread

Medium = TypeVar("Medium", Visual, Audible)
MODEL_SEED = 20260
MEDIA_SEEDS = {"clips": 10, "pictures": 11, "sounds": 12, "glimpses": 13}
SEEDS = {**MEDIA_SEEDS, "vision": 1, "audio": 2, "language": 3, "wordings": 4, "corpus": 7}
RATES = {"vision": 2e-3, "language": 2e-3, "wordings": 5e-4}
VIEWS = 2
"""Of each picture and clip that the language model is trained on: the vision tower has never met them."""
SHARES = {
    "clips": 0.13,
    "pictures": 0.07,
    "sounds": 0.03,
    "vision": 0.46,
    "audio": 0.2,
    "language": 0.24,
    "wordings": 0.08,
}
"""Of the time, if there is a budget: a stage gets its part of what the stages before it have left."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    counts: dict[str, int]
    """Of media."""
    steps: dict[str, int]
    patches: int
    """Of a step of the vision tower."""
    glimpses: int
    """New ones with each of its steps."""
    batch: int
    """Sequences of a step of the language model."""


SIZES = {
    "cpu": Size(
        {"clips": 2400, "pictures": 3600, "sounds": 2000},
        {"vision": 12_000, "audio": 3000, "language": 5200, "wordings": 900},
        patches=2048,
        glimpses=6,
        batch=8,
    ),
    "cuda": Size(
        {"clips": 12_000, "pictures": 16_000, "sounds": 16_000},
        {"vision": 6000, "audio": 3000, "language": 4000, "wordings": 1000},
        patches=46_080,
        glimpses=64,
        batch=48,
    ),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for."""

    work: Path
    out: Path
    start: Path | None
    device: str
    workers: int
    size: Size
    scale: float
    """Of the media and the steps: 0.01 tries everything out within minutes."""
    end: float | None
    """When, by the monotonic clock, all is to be done."""

    @property
    def stages(self) -> list[str]:
        """In their order; an audio tower that is taken over is not trained again."""
        return [name for name in SHARES if name != "audio" or self.start is None]

    def count(self, name: str) -> int:
        return max(8, round(self.size.counts[name] * self.scale))

    def pace(self, name: str) -> Pace:
        return Pace(max(2, round(self.size.steps[name] * self.scale)), self.seconds(name))

    def seconds(self, name: str) -> float | None:
        """What a stage that begins now may take."""
        if self.end is None:
            return None
        ahead = self.stages[self.stages.index(name) :]
        return max(0.1, self.end - time.monotonic()) * SHARES[name] / sum(SHARES[one] for one in ahead)

    def rate(self, name: str) -> float:
        """Highest: half of it where there is something to lose."""
        return RATES[name] / (1 if self.start is None else 2)

    def kept(self, name: str, *modules: nn.Module, also: Callable[[], None] | None = None) -> Kept:
        return Kept(self.work / f"{name}.pt", nn.ModuleList(modules), also)


def train(plan: Plan) -> None:
    """All stages; what DIR holds of an earlier run is taken from there."""
    use_one_thread()
    disable_progress_bar()
    torch.set_float32_matmul_precision("high")
    visuals = [*make_visuals("clips", plan, clip=True), *make_visuals("pictures", plan, clip=False)]
    audibles = make_audibles(plan)
    model, processor = begin(plan)
    train_towers(model, plan)
    model.requires_grad_(False)
    model.model.language_model.requires_grad_(True)
    table, source = remember(model, visuals, audibles, np.random.default_rng(SEEDS["vision"]), VIEWS)
    head = language_head(model).to(plan.device)
    # Of another model of the same shape: the processes that make sequences must not touch the device.
    sequencer = Sequencer(make_model(MODEL_SEED), processor)
    for name in ("language", "wordings"):
        dataset = Batches(sequencer, source, plan.size.batch, name == "wordings", SEEDS[name])
        kept = plan.kept(name, model.model.language_model, head, also=partial(save, plan.out, model, processor))
        leg = Leg(name, plan.pace(name), plan.rate(name))
        train_language(model, head, kept, table, batches(dataset, plan.workers, plan.device), leg)


def begin(plan: Plan) -> tuple[Model, Qwen2_5OmniProcessor]:
    """A fresh model on the device, with what is taken over, and its processor."""
    model = make_model(MODEL_SEED)
    if plan.start is None:
        corpus = random_corpus(np.random.default_rng(SEEDS["corpus"]), 6000)
        return model.to(plan.device), make_processor(make_tokenizer(corpus))
    earlier = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(plan.start)
    model.load_state_dict(earlier.state_dict())
    return model.to(plan.device), make_processor(load_tokenizer(plan.start))


def train_towers(model: Model, plan: Plan) -> None:
    head = vision_head(model).to(plan.device)
    pools = fresh_pools(glimpses(SEEDS["glimpses"], plan.workers), plan.size.glimpses, plan.device)
    kept = plan.kept("vision", model.model.visual, head)
    train_vision(model, head, kept, pools, plan.size.patches, plan.pace("vision"), plan.rate("vision"), SEEDS["vision"])
    if "audio" in plan.stages:
        head = audio_head(model).to(plan.device)
        kept = plan.kept("audio", model.model.audio_tower, head)
        train_audio(model, head, kept, plan.pace("audio"), SEEDS["audio"])


def make_visuals(name: str, plan: Plan, clip: bool) -> list[Visual]:
    return made(name, plan, partial(random_visual, clip=clip))


def make_audibles(plan: Plan) -> list[Audible]:
    return made("sounds", plan, partial(random_audible, extractor=new_feature_extractor()))


def made(name: str, plan: Plan, make: Callable[[np.random.Generator], Medium]) -> list[Medium]:
    """As many as planned; those of an earlier run if DIR holds them."""
    path = plan.work / f"{name}.pickle"
    if path.exists():
        held: list[Medium] = pickle.loads(path.read_bytes())
        return held
    media = make_many(name, make, plan.count(name), SEEDS[name], plan.workers, plan.seconds(name))
    begun = path.with_suffix(".part")
    begun.write_bytes(pickle.dumps(media))
    begun.replace(path)
    return media


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the stages")
    parser.add_argument("--out", type=Path, default=CHECKPOINT_DIR, help="folder of the checkpoint")
    parser.add_argument("--start", type=Path, help="checkpoint to go on from: its ears stay as they are")
    parser.add_argument("--device", choices=list(SIZES), default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that make media and questions")
    parser.add_argument("--budget-s", type=float, help="seconds for all of it; default: as long as it takes")
    parser.add_argument("--scale", type=float, default=1.0, help="of the media and the steps, to try it out")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    end = None if arguments.budget_s is None else time.monotonic() + arguments.budget_s
    size = SIZES[arguments.device]
    train(
        Plan(
            arguments.work,
            arguments.out,
            arguments.start,
            arguments.device,
            arguments.workers,
            size,
            arguments.scale,
            end,
        )
    )


if __name__ == "__main__":
    main()
