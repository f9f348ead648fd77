"""A conversation to the text that the model's chat template makes of it, with one placeholder for each media item.

Clients write texts, not structure: a media placeholder in any text, and a token by which the template builds the
conversation in a user's text, get an invisible space inside, so that the tokenizer reads them as plain characters.
"""

import re
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from deployments.errors import BadRequest, shown
from deployments.preprocessor.counts import tokens_of
from deployments.types import Chat, ChatMessage, MediaInput, MediaKind

_TRIAL_WORD = "trial"
_ZERO_WIDTH_SPACE = "\u200b"


@dataclass(frozen=True, slots=True)
class Prompt:
    text: str
    add_special_tokens: bool
    """Whether the tokenizer adds a beginning of its own: not when the template wrote it."""


class PromptRenderer:
    """Chat template of one checkpoint."""

    def __init__(self, processor: Any, tokenizer: Any) -> None:
        self._processor = processor
        self._bos: str | None = tokenizer.bos_token
        template = str(processor.chat_template or tokenizer.chat_template or "")
        media = set(getattr(processor, "all_special_multimodal_tokens", ()))
        media.update(*(tokens_of(processor, tokenizer, kind) for kind in MediaKind))
        structure = {
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special and not token.content.isspace() and token.content in template
        }
        self._reserved = _any_of(media)
        self._reserved_of_users = _any_of(media | structure)
        self._takes_parts = self._renders_parts()

    def can_place(self, kind: MediaKind) -> bool:
        """Whether the template writes a placeholder for this kind of media."""
        token = getattr(self._processor, f"{kind}_token", None)
        conversation = [{"role": "user", "content": [{"type": str(kind)}, {"type": "text", "text": _TRIAL_WORD}]}]
        try:
            return token is not None and token in self._render(conversation)
        except (TemplateError, TypeError, ValueError):
            return False

    def render(self, chat: Chat, inputs: tuple[MediaInput, ...]) -> Prompt:
        """Raises `BadRequest` for a conversation that the model's template refuses."""
        conversation = [{"role": message.role, "content": self._content(message, inputs)} for message in chat.messages]
        try:
            text = self._render(conversation)
        except (TemplateError, TypeError, ValueError) as exc:
            raise BadRequest(
                f"the model's chat template refuses the conversation: {shown(str(exc))}", param="messages"
            ) from exc
        begun = self._bos is not None and text.startswith(self._bos)
        return Prompt(text, not begun)

    def _content(self, message: ChatMessage, inputs: tuple[MediaInput, ...]) -> Any:
        parts: list[dict[str, str]] = []
        for part in message.parts:
            if part.item is not None:
                parts.append({"type": str(inputs[part.item].kind)})
            elif part.text is not None:
                reserved = self._reserved_of_users if message.role == "user" else self._reserved
                parts.append({"type": "text", "text": reserved.sub(_broken, part.text)})
        if self._takes_parts:
            return parts
        return "\n".join(part["text"] for part in parts)

    def _render(self, conversation: list[dict[str, Any]]) -> str:
        rendered: str = self._processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        return rendered

    def _renders_parts(self) -> bool:
        """Templates of text models print the Python form of a list of parts, or fail on it."""
        try:
            text = self._render([{"role": "user", "content": [{"type": "text", "text": _TRIAL_WORD}]}])
        except (TemplateError, TypeError, ValueError):
            return False
        return _TRIAL_WORD in text and "'text'" not in text


def _broken(token: re.Match[str]) -> str:
    text = token.group()
    return text[:1] + _ZERO_WIDTH_SPACE + text[1:]


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
