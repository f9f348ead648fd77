"""Third stage: the language model on frozen towers."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2_5OmniProcessor

from deployments.demo.dialogue.conversations import random_conversation, random_sheet
from deployments.demo.dialogue.truth import LONG_S, SHORT_S, Subject
from deployments.demo.training.optimiser import optimise
from deployments.demo.training.sequences import TAGS, Encoded, Sequenced, Sequencer, answer_loss
from deployments.demo.training.sources import Model, Remembered

MIXTURE: dict[tuple[str, ...], float] = {
    ("clip",): 8,
    ("picture",): 4,
    ("sound",): 8,
    ("clip with sound",): 9,
    ("clip", "clip"): 20,
    ("picture", "picture"): 14,
    ("sound", "sound"): 14,
    ("clip", "picture"): 3,
    ("picture", "sound"): 4,
    ("clip", "sound"): 3,
    ("clip with sound", "clip with sound"): 3,
    ("clip with sound", "picture"): 2,
    ("picture", "picture", "picture"): 3,
    ("clip", "picture", "sound"): 2,
    (): 3,
}
"""What a sequence is about, and how often."""
BATCH, BATCHES = 8, 6
QUESTIONS = 10
"""Of a sheet."""
CONVERSATIONS = 0.15
"""Share of the sequences that are conversations; the others are sheets."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A stretch of training."""

    steps: int
    seed: int
    peak_rate: float
    wide: bool
    """Whether questions come in all wordings that there are."""


def train_language(model: Model, processor: Qwen2_5OmniProcessor, source: Remembered, leg: Leg) -> None:
    """Train `model`'s language model in place on questions about media of `source`.

    Those of BATCHES steps are drawn together and sorted by length: less padding.
    """
    rng = np.random.default_rng(leg.seed)
    sequencer = Sequencer(model, processor)
    waiting: list[list[Sequenced]] = []

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        if not waiting:
            drawn = [random_sequence(rng, sequencer, source, leg.wide) for _ in range(BATCH * BATCHES)]
            drawn.sort(key=lambda one: len(one.ids_L))
            waiting.extend(drawn[number * BATCH : (number + 1) * BATCH] for number in rng.permutation(BATCHES))
        return answer_loss(model, tagger, waiting.pop())

    torch.manual_seed(leg.seed)
    tagger = nn.Linear(model.config.text_config.hidden_size, TAGS)
    parameters = [*model.model.language_model.parameters(), *tagger.parameters()]
    optimise("language", parameters, loss_of_step, leg.steps, leg.peak_rate)


def random_sequence(rng: np.random.Generator, sequencer: Sequencer, source: Remembered, wide: bool) -> Sequenced:
    """Random media of MIXTURE with many questions, or with a conversation on them."""
    shares = np.array(list(MIXTURE.values()))
    kinds = list(MIXTURE)[rng.choice(len(MIXTURE), p=shares / shares.sum())]
    drawn = [_random_item(rng, source, kind) for kind in rng.permutation(kinds)]
    items, encoded = [item for item, _ in drawn], [one for _, one in drawn]
    if rng.random() < CONVERSATIONS:
        return sequencer.sequence(random_conversation(rng, items, int(rng.integers(1, 6)), wide), encoded)
    return sequencer.sheet(random_sheet(rng, items, QUESTIONS, wide), encoded)


def _random_item(rng: np.random.Generator, source: Remembered, kind: str) -> tuple[Subject, Encoded]:
    if kind == "picture":
        seen = source.picture(rng)
        return Subject(scene=seen.scene), Encoded(seen=seen)
    if kind == "sound":
        alone = source.sound(rng)
        return Subject(sound=alone.sound), Encoded(heard=alone)
    seen = source.clip(rng)
    heard = source.sound(rng) if kind == "clip with sound" else None
    clip_s = _random_duration(rng) if heard is None else heard.sound.duration_s * float(rng.uniform(0.97, 1.03))
    # Some count the frame that ends the last interval, some do not.
    frame_s = clip_s / (seen.frames - int(rng.random() < 0.5))
    sound = None if heard is None else heard.sound
    # One or two pairs of frames say little of the time they span: such a clip is neither short nor long.
    told_s = clip_s if seen.frames > 4 else (SHORT_S + LONG_S) / 2
    return Subject(seen.scene, sound, told_s), Encoded(seen, heard, frame_s)


def _random_duration(rng: np.random.Generator) -> float:
    # Beyond six seconds the slowest rotation of the positions has come round: lengths would look alike.
    ranges = ((0.5, SHORT_S), (SHORT_S, LONG_S), (LONG_S, 6.0))
    return float(rng.uniform(*ranges[rng.choice(3, p=(0.45, 0.1, 0.45))]))
