"""Everything between a conversation with its media and what the model replica takes. Blocking; knows nothing of Ray."""

import copy
import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.core.executor import is_awaited
from deployments.errors import BadRequest, ContextTooLong
from deployments.preprocessor.counts import count_tokens, tokens_of
from deployments.preprocessor.family import read_family
from deployments.preprocessor.given import with_embeds
from deployments.preprocessor.handoff import Handoff, find_handoff
from deployments.preprocessor.hf_processor import Expanded, HfProcessor, tokenized
from deployments.preprocessor.known_clips import KnownClips, are_blank, find_known_clips, trial_media
from deployments.preprocessor.limits import Sizes, request_sizes
from deployments.preprocessor.loading import Checkpoint
from deployments.preprocessor.media import Media, MediaReader
from deployments.preprocessor.media_marks import media_marks
from deployments.preprocessor.patches import find_patch_rule
from deployments.preprocessor.picture_rows import blank_pictures
from deployments.preprocessor.picture_trial import ROWS_TENSOR, ImageSize, find_picture_cutter
from deployments.preprocessor.profile import media_profile
from deployments.preprocessor.prompt import Prompt, PromptRenderer
from deployments.preprocessor.stand_in import StandIns
from deployments.preprocessor.template import special_marks
from deployments.preprocessor.text_bound import TextBound
from deployments.preprocessor.token_runs import read_runs_once
from deployments.types import (
    Chat,
    ChatMessage,
    ChatPart,
    MediaInput,
    MediaKind,
    MediaProfile,
    PatchRule,
    Payload,
    PixelNorm,
    PlainPrompt,
    Prepared,
    TokenCounts,
)

Tensors = dict[str, NDArray[Any]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BegunPrompt:
    """A request whose media have been read and whose prompt is worded, before the processor's call."""

    chat: Chat
    inputs: tuple[MediaInput, ...]
    media: Media
    prompt: Prompt
    sizes: Sizes
    norm: PixelNorm | None
    """What is left to the model's device; then pixels stay uint8."""
    started: float


class Preparation:
    """Prepares requests, at most `config.preprocessor.workers` of them at once."""

    def __init__(self, checkpoint: Checkpoint, config: AppConfig) -> None:
        torch.set_num_threads(config.preprocessor.threads)
        processor, tokenizer = checkpoint.processor, checkpoint.tokenizer
        self._config = config.preprocessor
        self._prompts = PromptRenderer(processor, tokenizer, config.tool_format)
        self._family = read_family(processor, checkpoint.model_config, self._prompts.can_place)
        self.is_awaited = is_awaited(processor)
        """Whether the processor's call is a coroutine. Nothing is tried out on such a one: it belongs to a loop."""
        tried = self._config.uint8_handoff and not self.is_awaited
        self._handoff = find_handoff(processor, self._family) if tried else Handoff()
        self._tokens = {kind: tokens_of(processor, tokenizer, kind) for kind in MediaKind}
        media_tokens = frozenset().union(*self._tokens.values())
        self._media_ids = frozenset(tokenizer.convert_tokens_to_ids(sorted(media_tokens)))
        self._bound = TextBound(tokenizer)
        self._copies: queue.SimpleQueue[HfProcessor] = queue.SimpleQueue()
        self._tokenizers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self._config.text_workers):
            self._tokenizers.put(copy.deepcopy(tokenizer))
        copies = [processor, *(copy.deepcopy(processor) for _ in range(self._config.workers - 1))]
        for own in copies:
            self._copies.put(HfProcessor(own, self._family))
        if MediaKind.IMAGE in self._family.modalities and not self.is_awaited:
            picture = Media([np.zeros((64, 96, 3), np.uint8)])
            read_runs_once(copies, media_tokens, lambda: self._expand_pictures(picture, self._family.image_size))
        patches = find_patch_rule(processor, self._family, self._handoff, self._expand_clip)
        images = getattr(processor, "image_processor", None)
        self._cutter = find_picture_cutter(images, self._family, self._handoff, self._expand_pictures)
        self._known_clips = None if patches is None else self._find_known_clips(patches)
        stand_ins = StandIns(processor, self._family, self._config)
        self._reader = MediaReader(self._config, self._family, patches, self._cutter, stand_ins)
        self.profile: MediaProfile = replace(
            media_profile(checkpoint, self._family, patches, config),
            tool_format=self._prompts.abilities.tool_format,
            special_marks=special_marks(tokenizer),
        )
        self._tokenizer = tokenizer

    def decode_bytes(self, inputs: Sequence[MediaInput], payloads: Sequence[Payload]) -> int:
        """See `MediaReader.decode_bytes`."""
        return self._reader.decode_bytes(inputs, payloads)

    def continue_text(self, deadline: Deadline, prompt: PlainPrompt) -> Prepared:
        """What `Model.generate` takes of a text without a conversation. Raises `ContextTooLong`, `BadRequest`."""
        started = time.monotonic()
        deadline.check()
        ids = self._token_ids(prompt)
        self._check_context(len(ids), prompt.max_new_tokens, "prompt")
        counts = TokenCounts({"text": len(ids)})
        return Prepared(ids, counts, None, use_audio_in_video=False, prepare_s=time.monotonic() - started)

    def detokenize(self, token_ids: tuple[int, ...]) -> str:
        """Raises `BadRequest` for a number that is no token."""
        self._check_ids(token_ids, "tokens")
        with _borrowed(self._tokenizers) as tokenizer:
            return str(tokenizer.decode(list(token_ids)))

    def _token_ids(self, prompt: PlainPrompt) -> NDArray[np.int32]:
        if prompt.token_ids is not None:
            self._check_ids(prompt.token_ids, "prompt")
            ids = np.array(prompt.token_ids, np.int32)
        else:
            least = self._bound.least_tokens(prompt.text)
            self._check_context(least, prompt.max_new_tokens, "prompt", "at least ")
            with _borrowed(self._tokenizers) as tokenizer:
                ids = tokenized(tokenizer, self._prompts.plain(prompt.text))
        if not len(ids):
            raise BadRequest("the prompt has no tokens", param="prompt")
        if any((ids == token_id).any() for token_id in self._media_ids):
            raise BadRequest("the prompt holds a placeholder of a media item", param="prompt")
        return ids

    def _check_ids(self, token_ids: tuple[int, ...], param: str) -> None:
        size = len(self._tokenizer)
        if not all(0 <= token_id < size for token_id in token_ids):
            raise BadRequest(f"`{param}` holds a number that is no token; the vocabulary has {size}", param=param)

    def prepare(
        self, deadline: Deadline, chat: Chat, inputs: tuple[MediaInput, ...], payloads: Sequence[Payload]
    ) -> tuple[Prepared, Tensors | None]:
        """What `Model.generate` takes, but for patches that are there already. No tensors for text alone.

        `payloads`: those of each of `inputs`, in their order, but for those whose pixels are at the model.

        Raises `BadRequest` and its kin for what the client asked, each naming the item, `ContextTooLong` when prompt
        and answer do not fit, `StageTimeout` or `WorkCancelled` between steps.
        """
        begun = self.begin(deadline, chat, inputs, payloads)
        if inputs:
            with _borrowed(self._copies) as processor:
                expanded = self._expand(processor, begun, deadline)
        else:
            with _borrowed(self._tokenizers) as tokenizer:
                expanded = Expanded(tokenized(tokenizer, begun.prompt), {}, ())
        return self.finish(begun, expanded)

    def begin(
        self, deadline: Deadline, chat: Chat, inputs: tuple[MediaInput, ...], payloads: Sequence[Payload]
    ) -> BegunPrompt:
        """What comes before the processor's call; raises as `prepare` does."""
        started = time.monotonic()
        deadline.check()
        sizes = request_sizes(chat.processor_kwargs, self._config.allowed_processor_kwargs, self._family)
        media = self._reader.read(chat, inputs, payloads, sizes, deadline)
        prompt = self._prompts.render(chat, inputs)
        least = self._bound.least_tokens(prompt.text)
        self._check_context(least, chat.max_new_tokens, "messages", "at least ")
        deadline.check()
        return BegunPrompt(chat, inputs, media, prompt, sizes, self._handoff.norm_of(media), started)

    async def expand_awaiting(self, begun: BegunPrompt) -> Expanded:
        """The processor's call, where it is a coroutine; at most `config.preprocessor.workers` at once."""
        with _borrowed(self._copies) as processor:
            return await processor.expand_awaiting(
                begun.prompt, begun.media, begun.sizes, raw_pixels=begun.norm is not None
            )

    def finish(self, begun: BegunPrompt, expanded: Expanded) -> tuple[Prepared, Tensors | None]:
        """What comes after it; raises as `prepare` does."""
        chat, inputs, media = begun.chat, begun.inputs, begun.media
        self._check_context(len(expanded.token_ids), chat.max_new_tokens, "messages")
        tensors = with_embeds(expanded, media.embeds, inputs, self._tokens)
        prepared = Prepared(
            token_ids=expanded.token_ids,
            counts=self._counts(expanded),
            pixel_norm=begun.norm,
            use_audio_in_video=media.hears_clips,
            prepare_s=time.monotonic() - begun.started,
            thinking=begun.prompt.thinking,
            media=media_marks(inputs, media, (begun.sizes, begun.norm, chat.processor_kwargs)),
        )
        return prepared, tensors if inputs else None

    def _expand(self, processor: HfProcessor, begun: BegunPrompt, deadline: Deadline) -> Expanded:
        """What `processor` makes of a request, but for rows of pictures that can be cut here."""
        media, raw_pixels = begun.media, begun.norm is not None
        if self._known_clips is not None and are_blank(media):
            return self._known_clips.expand(processor, begun.prompt, media, begun.sizes, raw_pixels)
        if self._cutter is None or not (raw_pixels and media.pictures_HWC and media.pictures_at_target):
            return processor.expand(begun.prompt, media, begun.sizes, raw_pixels)
        blank = replace(media, pictures_HWC=blank_pictures(media.pictures_HWC))
        expanded = processor.expand(begun.prompt, blank, begun.sizes, raw_pixels)
        deadline.check()
        expanded.tensors[ROWS_TENSOR] = self._cutter.rows(media.pictures_HWC)
        return expanded

    def _find_known_clips(self, rule: PatchRule) -> KnownClips | None:
        media = trial_media(rule)
        items = tuple(MediaInput(MediaKind.VIDEO, "", "", clip.video) for clip in media.clips)
        first, second = ChatPart(None, 0), ChatPart(None, 1)
        one = Chat((ChatMessage("user", (first, second)),))
        other = Chat((ChatMessage("user", (ChatPart("a 1"), first, ChatPart("b?"), second, ChatPart("c, d"))),))
        prompts = [self._prompts.render(chat, items) for chat in (one, other)]
        with _borrowed(self._copies) as processor:
            return find_known_clips(processor, prompts, media)

    def _expand_pictures(self, media: Media, size: ImageSize) -> Expanded:
        """What the processor makes of pictures and no text, its pixels left as uint8."""
        count = len(media.pictures_HWC)
        parts = tuple(ChatPart(None, number) for number in range(count))
        items = tuple(MediaInput(MediaKind.IMAGE, "", "") for _ in range(count))
        prompt = self._prompts.render(Chat((ChatMessage("user", parts),)), items)
        with _borrowed(self._copies) as processor:
            return processor.expand(prompt, media, Sizes(size, None), raw_pixels=True)

    def _expand_clip(self, media: Media) -> Expanded:
        """What the processor makes of one clip and no text, its pixels left as uint8."""
        item = MediaInput(MediaKind.VIDEO, "", "", media.clips[0].video)
        prompt = self._prompts.render(Chat((ChatMessage("user", (ChatPart(None, 0),)),)), (item,))
        with _borrowed(self._copies) as processor:
            return processor.expand(prompt, media, Sizes(None, self._family.video_size), raw_pixels=True)

    def _counts(self, expanded: Expanded) -> TokenCounts:
        return count_tokens(len(expanded.token_ids), expanded.replacements, self._tokens)

    def _check_context(self, prompt_tokens: int, max_new_tokens: int | None, param: str, about: str = "") -> None:
        """The words are those by which clients recognise that they must shorten the conversation."""
        limit, answer = self.profile.context_length, 1 if max_new_tokens is None else max_new_tokens
        if prompt_tokens + answer > limit:
            raise ContextTooLong(
                f"this model's maximum context length is {limit} tokens, however you requested "
                f"{about}{prompt_tokens + answer}: {prompt_tokens} in the {param} and {answer} for the answer",
                param=param if prompt_tokens >= limit else "max_tokens",
            )


@contextmanager
def _borrowed(copies: "queue.SimpleQueue[T]") -> Iterator[T]:
    """One of the copies; there is one for each worker, so that none waits."""
    copy = copies.get()
    try:
        yield copy
    finally:
        copies.put(copy)
