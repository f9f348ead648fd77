"""Third stage: the language model on frozen towers."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.demo.training.batches import Batch
from deployments.demo.training.optimiser import Kept, Pace, optimise
from deployments.demo.training.reading import TAGS, read
from deployments.demo.training.sources import Model

POINTING, TAGGING = 0.3, 0.3
"""Weights of the losses that tell the model which item to look at."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A stretch of training."""

    name: str
    pace: Pace
    peak_rate: float


def language_head(model: Model) -> nn.Linear:
    """The throwaway head that names tags."""
    return nn.Linear(model.config.text_config.hidden_size, TAGS)


def train_language(
    model: Model, tagger: nn.Linear, kept: Kept, table_RD: Tensor, batches: Iterator[Batch], leg: Leg
) -> None:
    """Train `model`'s language model in place on `batches`, whose media are rows of `table_RD`."""

    def loss_of_step() -> tuple[Tensor, dict[str, Tensor]]:
        return answer_loss(model, tagger, table_RD, next(batches))

    optimise(leg.name, kept, loss_of_step, leg.pace, leg.peak_rate)


def answer_loss(model: Model, tagger: nn.Linear, table_RD: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross entropy over the answers' tokens with the throwaway losses of `reading`; figures of all three.

    Nothing here waits for the device.
    """
    media = table_RD[batch.rows_BL.clamp(min=0)]
    embeds_BLD = torch.where((batch.rows_BL >= 0)[..., None], media, model.get_input_embeddings()(batch.ids_BL))
    reading = read(model, tagger, embeds_BLD, batch)
    logits, labels = model.lm_head(reading.states_BAD), batch.labels_BA.long()
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    loss = (losses * batch.weights_BA).sum() / batch.weights_BA.sum()
    told = batch.weights_BA > 0
    right = ((logits.argmax(2) == labels) & told).sum() / told.sum()
    figures = {"loss": loss, "right": right, "pointed": reading.pointed, "tagged": reading.tagged}
    total: Tensor = loss + POINTING * reading.pointed + TAGGING * reading.tagged
    return total, {name: figure.detach() for name, figure in figures.items()}
