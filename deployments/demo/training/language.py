"""Third and fourth stage: the language model on frozen towers, then all of it together at a low rate."""

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn
from transformers import Qwen2_5OmniProcessor

from deployments.demo.dialogue.conversations import random_conversation
from deployments.demo.dialogue.truth import LONG_S, SHORT_S, Item
from deployments.demo.training.sequences import Encoded, Sequenced, Sequencer, answer_loss
from deployments.demo.training.sources import Model, Source
from deployments.demo.training.team import Team, optimise

MIXTURE: dict[tuple[str, ...], float] = {
    ("clip",): 14,
    ("picture",): 5,
    ("sound",): 12,
    ("clip with sound",): 12,
    ("clip", "clip"): 16,
    ("picture", "picture"): 11,
    ("sound", "sound"): 11,
    ("clip", "picture"): 3,
    ("picture", "sound"): 3,
    ("clip", "sound"): 3,
    ("clip with sound", "clip with sound"): 3,
    ("clip with sound", "picture"): 2,
    ("picture", "picture", "picture"): 3,
    ("clip", "picture", "sound"): 2,
    (): 4,
}
"""What a conversation is about, and how often."""
BATCH = 12
"""Conversations of a step in one process."""


def train_language(
    team: Team,
    model: Model,
    processor: Qwen2_5OmniProcessor,
    source: Source,
    parameters: list[nn.Parameter],
    steps: int,
    peak_rate: float,
    seed: int,
    batches: int = 5,
    name: str = "language",
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Train `parameters` of `model` in place on conversations about media of `source`.

    Those of `batches` steps are drawn together and sorted by length; a source with gradients needs 1.
    """
    rng = np.random.default_rng((seed, team.rank))
    sequencer = Sequencer(model, processor)
    waiting: list[list[Sequenced]] = []

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        if not waiting:
            drawn = [random_sequence(rng, sequencer, source) for _ in range(BATCH * batches)]
            drawn.sort(key=lambda one: len(one.ids_L))
            waiting.extend(drawn[number * BATCH : (number + 1) * BATCH] for number in rng.permutation(batches))
        return answer_loss(model, waiting.pop())

    optimise(team, name, parameters, loss_of_step, steps, peak_rate, after_step)


def random_sequence(rng: np.random.Generator, sequencer: Sequencer, source: Source) -> Sequenced:
    """A conversation on random media of MIXTURE."""
    shares = np.array(list(MIXTURE.values()))
    kinds = list(MIXTURE)[rng.choice(len(MIXTURE), p=shares / shares.sum())]
    drawn = [_random_item(rng, source, kind) for kind in rng.permutation(kinds)]
    conversation = random_conversation(rng, [item for item, _ in drawn], int(rng.integers(3, 7)))
    return sequencer.sequence(conversation, [encoded for _, encoded in drawn])


def _random_item(rng: np.random.Generator, source: Source, kind: str) -> tuple[Item, Encoded]:
    if kind == "picture":
        seen = source.picture(rng)
        return Item(scene=seen.scene), Encoded(seen=seen)
    if kind == "sound":
        alone = source.sound(rng)
        return Item(sound=alone.sound), Encoded(heard=alone)
    seen = source.clip(rng)
    heard = source.sound(rng) if kind == "clip with sound" else None
    clip_s = _random_duration(rng) if heard is None else heard.sound.duration_s * float(rng.uniform(0.97, 1.03))
    # Some count the frame that ends the last interval, some do not.
    frame_s = clip_s / (seen.frames - int(rng.random() < 0.5))
    sound = None if heard is None else heard.sound
    # One or two pairs of frames say little of the time they span: such a clip is neither short nor long.
    told_s = clip_s if seen.frames > 4 else (SHORT_S + LONG_S) / 2
    return Item(seen.scene, sound, told_s), Encoded(seen, heard, frame_s)


def _random_duration(rng: np.random.Generator) -> float:
    # Beyond six seconds the slowest rotation of the positions has come round: lengths would look alike.
    ranges = ((0.5, SHORT_S), (SHORT_S, LONG_S), (LONG_S, 6.0))
    return float(rng.uniform(*ranges[rng.choice(3, p=(0.45, 0.1, 0.45))]))
