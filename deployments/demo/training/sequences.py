"""Conversations on encoded media as what the language model reads: token ids, positions, media, what to learn.

Prompts are expanded as the processor does it, positions come from the model's own `get_rope_index`. All of it is made
by processes beside the one that trains: none of it touches a device.
Shape legend: L tokens of a sequence.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5OmniProcessor

from deployments.demo.blueprint import END, START
from deployments.demo.dialogue.conversations import PART, Conversation, Sheet
from deployments.demo.training.sources import Heard, Model, Seen

PLACEHOLDER = re.compile(r"<\|(?:IMAGE|VIDEO|AUDIO)\|>")
IGNORED = -100
TEXT = -1
"""Row of a token that is none of an item's."""
QUESTION_SPOT = "\0"
"""Stands where the questions of a sheet will."""


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
    """Of each label: the longer an answer, the less each of its tokens."""
    branches_L: Tensor
    """0 where all that follows may look; a question of a sheet, and its answer, is seen by itself alone."""
    items_L: Tensor
    """Which item a token is of, from 1; 0 for text."""
    about_L: Tensor
    """Which item the label is about; 0 where it is not told."""
    tags_L: Tensor
    """Of each token of an item, and of each label about one: is it the first of its kind (1), the second...; else 0."""
    rows_L: Tensor
    """Row of the table that holds what an item's token shows; TEXT where it is none's."""


class Sequencer:
    """Builds sequences for one model and its processor."""

    def __init__(self, model: Model, processor: Qwen2_5OmniProcessor) -> None:
        self._model, self._processor = model, processor
        tokenizer = processor.tokenizer
        self._answer_begins = tokenizer.encode(f"{START}assistant\n", add_special_tokens=False)
        self._end = tokenizer.convert_tokens_to_ids(END)
        config = model.config
        self._placeholders = torch.tensor([config.image_token_id, config.video_token_id, config.audio_token_id])

    def sequence(self, conversation: Conversation, encoded: Sequence[Encoded]) -> Sequenced:
        """`encoded` belongs to the conversation's items, in their order."""
        text = self._processor.apply_chat_template(conversation.messages, tokenize=False)
        waiting = iter(encoded)
        text = PLACEHOLDER.sub(lambda match: self._expand(match[0], next(waiting)), text)
        ids = torch.tensor(self._processor.tokenizer.encode(text, add_special_tokens=False))
        labels, weights = self._labels(ids.tolist())
        positions = self._positions(ids, encoded)
        nothing = torch.zeros_like(ids)
        return Sequenced(ids, positions, labels, weights, nothing, nothing, nothing, nothing, self._rows(ids, encoded))

    def sheet(self, sheet: Sheet, encoded: Sequence[Encoded]) -> Sequenced:
        """All questions of `sheet` behind one copy of its media, as if each were asked alone."""
        content = [*({"type": PART[item.noun]} for item in sheet.items), {"type": "text", "text": QUESTION_SPOT}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if sheet.system is not None:
            messages.insert(0, {"role": "system", "content": sheet.system})
        text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        waiting = iter(encoded)
        before, after = PLACEHOLDER.sub(lambda match: self._expand(match[0], next(waiting)), text).split(QUESTION_SPOT)
        shared = torch.tensor(self._encode(before))
        positions = self._positions(shared, encoded)
        ids, places, labels, branches = [shared], [positions], [torch.full_like(shared, IGNORED)], [0] * len(shared)
        weights = [0.0] * len(shared)
        begin = int(positions.max()) + 1
        about = [0] * len(shared)
        for number, exchange in enumerate(sheet.exchanges, start=1):
            asked, told = self._encode(exchange.question + after), self._encode(exchange.answer + END)
            ids.append(torch.tensor(asked + told))
            places.append(torch.arange(begin, begin + len(ids[-1])).expand(3, -1))
            labels.append(torch.tensor([IGNORED] * (len(asked) - 1) + told + [IGNORED]))
            branches += [number] * len(ids[-1])
            about += [0 if exchange.about is None else exchange.about + 1] * len(ids[-1])
            weights += [0.0] * (len(asked) - 1) + [len(told) ** -0.5] * len(told) + [0.0]
        all_ids = torch.cat(ids)
        items, meant = self._items(all_ids, encoded), torch.tensor(about)
        nouns = [item.noun for item in sheet.items]
        tags = torch.tensor([0] + [nouns[: place + 1].count(noun) for place, noun in enumerate(nouns)])
        return Sequenced(
            all_ids,
            torch.cat(places, 1),
            torch.cat(labels),
            torch.tensor(weights),
            torch.tensor(branches),
            items,
            meant,
            tags[items + meant],
            self._rows(all_ids, encoded),
        )

    def _items(self, ids: Tensor, encoded: Sequence[Encoded]) -> Tensor:
        items = torch.zeros_like(ids)
        numbers = [
            number
            for number, one in enumerate(encoded, start=1)
            for part in (one.seen, one.heard)
            if part is not None
            for _ in part.rows
        ]
        items[torch.isin(ids, self._placeholders)] = torch.tensor(numbers, dtype=ids.dtype)
        return items

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _expand(self, placeholder: str, one: Encoded) -> str:
        """The placeholder as often as the item has tokens; sound tokens interleaved with those of their clip."""
        if one.seen is None or one.heard is None:
            encoded = one.seen or one.heard
            return placeholder * (0 if encoded is None else len(encoded.rows))
        video = {"video_grid_thw": np.array([one.seen.grid_thw]), "video_second_per_grid": [one.second_per_grid]}
        audio = {"num_audio_tokens": [len(one.heard.rows)]}
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

    def _rows(self, ids: Tensor, encoded: Sequence[Encoded]) -> Tensor:
        """Tokens of one kind stand in the order of their items, also where sight and sound of a clip alternate."""
        config = self._model.config
        found: dict[int, list[int]] = {}
        for one in encoded:
            if one.seen is not None:
                token = config.image_token_id if one.frame_s is None else config.video_token_id
                found.setdefault(token, []).extend(one.seen.rows)
            if one.heard is not None:
                found.setdefault(config.audio_token_id, []).extend(one.heard.rows)
        rows = torch.full_like(ids, TEXT)
        for token, taken in found.items():
            rows[ids == token] = torch.tensor(taken)
        return rows

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
