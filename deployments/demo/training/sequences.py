"""Conversations on encoded media as what the language model reads: token ids, positions, features, what to learn.

Prompts are expanded as the processor does it, positions come from the model's own `get_rope_index`.
Shape legend: L tokens of a sequence, B batch, D hidden.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2_5OmniProcessor

from deployments.demo.blueprint import END, START
from deployments.demo.dialogue.conversations import Conversation
from deployments.demo.training.sources import Heard, Model, Seen

PLACEHOLDER = re.compile(r"<\|(?:IMAGE|VIDEO|AUDIO)\|>")
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """An item's encoder outputs: what is seen, what is heard, and the seconds from one frame to the next."""

    seen: Seen | None = None
    heard: Heard | None = None
    frame_s: float | None = None
    """None for pictures and sounds."""

    @property
    def second_per_grid(self) -> float:
        return 2 * (self.frame_s or 0.0)


@dataclass(frozen=True, slots=True)
class Sequenced:
    """One conversation, ready to be batched."""

    ids_L: Tensor
    positions_3L: Tensor
    labels_L: Tensor
    weights_L: Tensor
    """Of each label: answers count alike, whether long or short."""
    features: dict[int, Tensor]
    """Encoder outputs (N, D) by the id of their placeholder token, in the order of the text."""


class Sequencer:
    """Builds sequences for one model and its processor."""

    def __init__(self, model: Model, processor: Qwen2_5OmniProcessor) -> None:
        self._model, self._processor = model, processor
        tokenizer = processor.tokenizer
        self._answer_begins = tokenizer.encode(f"{START}assistant\n", add_special_tokens=False)
        self._end = tokenizer.convert_tokens_to_ids(END)

    def sequence(self, conversation: Conversation, encoded: Sequence[Encoded]) -> Sequenced:
        """`encoded` belongs to the conversation's items, in their order."""
        text = self._processor.apply_chat_template(conversation.messages, tokenize=False)
        waiting = iter(encoded)
        text = PLACEHOLDER.sub(lambda match: self._expand(match[0], next(waiting)), text)
        ids = torch.tensor(self._processor.tokenizer.encode(text, add_special_tokens=False))
        labels, weights = self._labels(ids.tolist())
        return Sequenced(ids, self._positions(ids, encoded), labels, weights, self._features(encoded))

    def _expand(self, placeholder: str, one: Encoded) -> str:
        """The placeholder as often as the item has tokens; sound tokens interleaved with those of their clip."""
        if one.seen is None or one.heard is None:
            encoded = one.seen or one.heard
            return placeholder * (0 if encoded is None else len(encoded.tokens_ND))
        video = {"video_grid_thw": np.array([one.seen.grid_thw]), "video_second_per_grid": [one.second_per_grid]}
        audio = {"num_audio_tokens": [len(one.heard.tokens_ND)]}
        return str(
            self._processor.replace_video_with_audio_token(
                video, 0, audio, 0, position_id_per_seconds=25, seconds_per_chunk=2.0
            )
        )

    def _positions(self, ids: Tensor, encoded: Sequence[Encoded]) -> Tensor:
        if all(one.seen is None for one in encoded):
            return torch.arange(len(ids)).expand(3, -1)
        grids: dict[bool, list[Any]] = {True: [], False: []}
        for one in encoded:
            if one.seen is not None:
                grids[one.frame_s is not None].append(one.seen.grid_thw)
        positions, _ = self._model.model.get_rope_index(
            ids[None],
            image_grid_thw=torch.tensor(grids[False]) if grids[False] else None,
            video_grid_thw=torch.tensor(grids[True]) if grids[True] else None,
            attention_mask=torch.ones_like(ids)[None],
            use_audio_in_video=any(one.seen is not None and one.heard is not None for one in encoded),
            audio_seqlens=torch.tensor([one.heard.mel_frames for one in encoded if one.heard is not None]),
            second_per_grids=torch.tensor([one.second_per_grid for one in encoded if one.frame_s is not None]),
        )
        positions_3L: Tensor = positions[:, 0]
        return positions_3L

    def _features(self, encoded: Sequence[Encoded]) -> dict[int, Tensor]:
        config = self._model.config
        found: dict[int, list[Tensor]] = {}
        for one in encoded:
            if one.seen is not None:
                token = config.image_token_id if one.frame_s is None else config.video_token_id
                found.setdefault(token, []).append(one.seen.tokens_ND)
            if one.heard is not None:
                found.setdefault(config.audio_token_id, []).append(one.heard.tokens_ND)
        return {token: torch.cat(tokens) for token, tokens in found.items()}

    def _labels(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """The id that follows each token of an answer, IGNORED elsewhere; and the weight of each."""
        labels, weights = [IGNORED] * len(ids), [0.0] * len(ids)
        width = len(self._answer_begins)
        for place in range(len(ids) - width):
            if ids[place : place + width] != self._answer_begins:
                continue
            first, last = place + width, ids.index(self._end, place + width)
            for position in range(first, last + 1):
                labels[position - 1] = ids[position]
                weights[position - 1] = (last + 1 - first) ** -0.5
        return torch.tensor(labels), torch.tensor(weights)


def answer_loss(model: Model, batch: Sequence[Sequenced]) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy over the answers' tokens, and the share of tokens that would be chosen right."""
    longest = max(len(one.ids_L) for one in batch)

    def padded(tensors: Sequence[Tensor], value: int) -> Tensor:
        return torch.stack([F.pad(tensor, (0, longest - tensor.shape[-1]), value=value) for tensor in tensors])

    ids_BL = padded([one.ids_L for one in batch], 0)
    embeds_BLD = model.get_input_embeddings()(ids_BL)
    for token in {token for one in batch for token in one.features}:
        features = torch.cat([one.features[token] for one in batch if token in one.features])
        embeds_BLD = embeds_BLD.masked_scatter((ids_BL == token)[..., None], features.to(embeds_BLD.dtype))
    positions = padded([one.positions_3L for one in batch], 0).transpose(0, 1)
    hidden = model.model.language_model(inputs_embeds=embeds_BLD, position_ids=positions, use_cache=False)[0]
    labels = padded([one.labels_L for one in batch], IGNORED)
    asked = labels != IGNORED
    weights = padded([one.weights_L for one in batch], 0)[asked]
    logits, truth = model.lm_head(hidden[asked]), labels[asked]
    losses = F.cross_entropy(logits, truth, reduction="none")
    loss = (losses * weights).sum() / weights.sum()
    return loss, {"loss": loss.item(), "right": (logits.argmax(1) == truth).float().mean().item()}
