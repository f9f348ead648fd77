"""Sequences padded to a batch, by worker processes.

Shape legend: B batch, L tokens of a sequence, A answer tokens of a sequence.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from deployments.demo.dialogue.conversations import random_conversation, random_sheet
from deployments.demo.dialogue.truth import LONG_S, SHORT_S, Subject
from deployments.demo.training.sequences import IGNORED, TEXT, Encoded, Sequenced, Sequencer
from deployments.demo.training.sources import Source
from deployments.demo.training.workers import endless

MIXTURE: dict[tuple[str, ...], float] = {
    ("clip",): 10,
    ("picture",): 18,
    ("sound",): 8,
    ("clip with sound",): 9,
    ("clip", "clip"): 18,
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
BATCHES = 6
"""That are drawn together and sorted by length: less padding."""
ROUND = 16
"""Lengths are multiples of it, as the attention of CUDA likes them."""
QUESTIONS = 10
"""Of a sheet."""
CONVERSATIONS = 0.15
"""Share of the sequences that are conversations; the others are sheets."""


class Batch(NamedTuple):
    """Padded sequences, 32 bits a number; what is told of answers is told of their tokens alone."""

    ids_BL: Tensor
    rows_BL: Tensor
    positions_3BL: Tensor
    branches_BL: Tensor
    items_BL: Tensor
    tags_BL: Tensor
    asked_BA: Tensor
    """Places of the tokens at which an answer is learnt, filled up with 0."""
    labels_BA: Tensor
    weights_BA: Tensor
    """0 where it is filled up."""
    about_BA: Tensor


class Batches(IterableDataset[tuple[np.ndarray, ...]]):
    """Random batches without end, as arrays: they go from process to process faster than tensors."""

    def __init__(self, sequencer: Sequencer, source: Source, batch: int, wide: bool, seed: int) -> None:
        """`wide`: questions come in all wordings that there are."""
        self._sequencer, self._source, self._batch, self._wide, self._seed = sequencer, source, batch, wide, seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        worker = get_worker_info()
        rng = np.random.default_rng((self._seed, 0 if worker is None else worker.id))
        while True:
            drawn = [
                random_sequence(rng, self._sequencer, self._source, self._wide) for _ in range(self._batch * BATCHES)
            ]
            drawn.sort(key=lambda one: len(one.ids_L))
            for number in rng.permutation(BATCHES):
                batch = collate(drawn[number * self._batch : (number + 1) * self._batch])
                yield tuple(one.numpy() for one in batch)


def batches(dataset: Batches, workers: int, device: str) -> Iterator[Batch]:
    """On the device; made by `workers` processes, here if there are none."""
    for arrays in endless(dataset, workers, ahead=3):
        yield Batch(*(torch.from_numpy(one).to(device) for one in arrays))


def collate(sequences: Sequence[Sequenced]) -> Batch:
    """Pad to the longest."""
    longest = -(-max(len(one.ids_L) for one in sequences) // ROUND) * ROUND
    places = [torch.nonzero(one.labels_L != IGNORED)[:, 0] for one in sequences]
    most = max(1, *map(len, places))

    def padded(name: str, value: int = 0) -> Tensor:
        tensors = [getattr(one, name) for one in sequences]
        return torch.stack([F.pad(one, (0, longest - one.shape[-1]), value=value) for one in tensors]).int()

    def asked(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([F.pad(one, (0, most - len(one))) for one in tensors])

    def told(name: str) -> Tensor:
        return asked([getattr(one, name)[place] for one, place in zip(sequences, places, strict=True)])

    return Batch(
        padded("ids_L"),
        padded("rows_L", TEXT),
        padded("positions_3L").transpose(0, 1).contiguous(),
        padded("branches_L"),
        padded("items_L"),
        padded("tags_L"),
        asked(places).int(),
        told("labels_L").int(),
        told("weights_L").float(),
        told("about_L").int(),
    )


def random_sequence(
    rng: np.random.Generator,
    sequencer: Sequencer,
    source: Source,
    wide: bool,
    mixture: Mapping[tuple[str, ...], float] = MIXTURE,
) -> Sequenced:
    """Random media of `mixture` with many questions, or with a conversation on them."""
    shares = np.array(list(mixture.values()))
    kinds = list(mixture)[rng.choice(len(mixture), p=shares / shares.sum())]
    drawn = [_random_item(rng, source, kind) for kind in rng.permutation(kinds)]
    items, encoded = [item for item, _ in drawn], [one for _, one in drawn]
    if rng.random() < CONVERSATIONS:
        return sequencer.sequence(random_conversation(rng, items, int(rng.integers(1, 6)), wide), encoded)
    return sequencer.sheet(random_sheet(rng, items, QUESTIONS, wide), encoded)


def _random_item(rng: np.random.Generator, source: Source, kind: str) -> tuple[Subject, Encoded]:
    if kind == "picture":
        seen = source.picture(rng)
        return Subject(scene=seen.scene), Encoded(seen=seen)
    if kind == "sound":
        alone = source.sound(rng)
        return Subject(sound=alone.sound), Encoded(heard=alone)
    seen = source.clip(rng)
    while kind == "clip with sound" and not seen.scene.figures:
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
