"""A conversation to the text that the model's chat template makes of it, with one placeholder for each media item.

Clients write texts, not structure: a media placeholder in any text, and a token by which the template builds the
conversation in a user's text, get an invisible space inside, so that the tokenizer reads them as plain characters.
"""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from deployments.errors import BadRequest, shown
from deployments.preprocessor.counts import tokens_of
from deployments.preprocessor.template import REFUSALS, read_abilities
from deployments.types import Chat, ChatMessage, MediaInput, MediaKind, Thinking, ToolCall, ToolFormat

_TRIAL_WORD = "trial"
_ZERO_WIDTH_SPACE = "\u200b"
_NINE = re.compile(r"[A-Za-z0-9]{9}")


@dataclass(frozen=True, slots=True)
class Prompt:
    text: str
    add_special_tokens: bool
    """Whether the tokenizer adds a beginning of its own: not when the template wrote it."""
    thinking: Thinking | None = None
    """Of a model that thinks aloud, and whether it does already where the prompt ends."""


class PromptRenderer:
    """Chat template of one checkpoint."""

    def __init__(self, processor: Any, tokenizer: Any, tool_format: ToolFormat | None = None) -> None:
        """`tool_format`: how the model writes calls of tools; None: as its template does."""
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
        self.abilities = read_abilities(
            template, self._render, tokenizer, as_parts=self._takes_parts, tool_format=tool_format
        )

    def can_place(self, kind: MediaKind) -> bool:
        """Whether the template writes a placeholder for this kind of media."""
        token = getattr(self._processor, f"{kind}_token", None)
        conversation = [{"role": "user", "content": [{"type": str(kind)}, {"type": "text", "text": _TRIAL_WORD}]}]
        try:
            return token is not None and token in self._render(conversation)
        except REFUSALS:
            return False

    def render(self, chat: Chat, inputs: tuple[MediaInput, ...]) -> Prompt:
        """Raises `BadRequest` for a conversation that the model's template refuses."""
        conversation = [self._message(message, inputs) for message in chat.messages]
        options: dict[str, Any] = self._template_kwargs(chat)
        if chat.tools:
            options["tools"] = self._tools(chat)
        if chat.continue_last:
            options |= {"add_generation_prompt": False, "continue_final_message": True}
        try:
            text = self._render(conversation, **options)
        except REFUSALS as exc:
            raise BadRequest(
                f"the model's chat template refuses the conversation: {shown(str(exc))}", param="messages"
            ) from exc
        begun = self._bos is not None and text.startswith(self._bos)
        return Prompt(text, not begun, self._thinking_after(text))

    def plain(self, text: str) -> Prompt:
        """A text as it stands, without a template."""
        return Prompt(text, not (self._bos is not None and text.startswith(self._bos)))

    def _thinking_after(self, text: str) -> Thinking | None:
        thinking = self.abilities.thinking
        if thinking is None or not text.rstrip().endswith(thinking.begin):
            return thinking
        return replace(thinking, is_open=True)

    def _template_kwargs(self, chat: Chat) -> dict[str, Any]:
        """Raises `BadRequest` for what the template does not take."""
        known = self.abilities.variables
        for name, _ in chat.template_kwargs:
            if name not in known:
                takes = ", ".join(sorted(known)) or "none"
                param = f"chat_template_kwargs.{shown(name)}"
                raise BadRequest(
                    f"`{param}` is nothing that this model's template takes; it takes: {takes}", param=param
                )
        kwargs: dict[str, Any] = {}
        if chat.reasoning_effort is not None:
            if "reasoning_effort" in known and chat.reasoning_effort != "none":
                kwargs["reasoning_effort"] = chat.reasoning_effort
            if "enable_thinking" in known:
                kwargs["enable_thinking"] = chat.reasoning_effort != "none"
        return kwargs | {
            name: self._reserved_of_users.sub(_broken, value) if isinstance(value, str) else value
            for name, value in chat.template_kwargs
        }

    def _tools(self, chat: Chat) -> list[dict[str, Any]]:
        """Raises `BadRequest` where the template writes no tools."""
        if self.abilities.tool_format is None:
            raise BadRequest("this model's chat template takes no tools", param="tools")
        functions = []
        for tool in chat.tools:
            schema = json.loads(self._reserved.sub(_broken, tool.parameters))
            described = (
                {} if tool.description is None else {"description": self._reserved.sub(_broken, tool.description)}
            )
            functions.append({"name": tool.name, **described, "parameters": schema})
        return [{"type": "function", "function": function} for function in functions]

    def _message(self, message: ChatMessage, inputs: tuple[MediaInput, ...]) -> dict[str, Any]:
        worded: dict[str, Any] = {"role": message.role, "content": self._content(message, inputs)}
        if message.reasoning is not None:
            worded["reasoning_content"] = self._reserved.sub(_broken, message.reasoning)
        if message.tool_calls:
            worded["tool_calls"] = [self._call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            worded["tool_call_id"] = self._call_id(message.tool_call_id)
        return worded

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments = json.loads(self._reserved.sub(_broken, call.arguments))
        return {
            "id": self._call_id(call.id),
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }

    def _call_id(self, call_id: str) -> str:
        """Mistral's templates take nine letters and digits and nothing else."""
        if self.abilities.tool_format not in (ToolFormat.MISTRAL, ToolFormat.MISTRAL_ARGS):
            return self._reserved_of_users.sub(_broken, call_id)
        return call_id if _NINE.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]

    def _content(self, message: ChatMessage, inputs: tuple[MediaInput, ...]) -> Any:
        parts: list[dict[str, str]] = []
        for part in message.parts:
            if part.item is not None:
                parts.append({"type": str(inputs[part.item].kind)})
            elif part.text is not None:
                reserved = self._reserved_of_users if message.role in ("user", "tool") else self._reserved
                parts.append({"type": "text", "text": reserved.sub(_broken, part.text)})
        if self._takes_parts and (message.role != "tool" or self.abilities.tool_parts) and parts:
            return parts
        if any(part.item is not None for part in message.parts):
            raise BadRequest(
                f"this model's chat template takes no media in a {message.role}'s message", param="messages"
            )
        return "\n".join(part["text"] for part in parts)

    def _render(self, conversation: list[dict[str, Any]], **options: Any) -> str:
        options = {"add_generation_prompt": True, **options}
        rendered: str = self._processor.apply_chat_template(conversation, tokenize=False, **options)
        return rendered

    def _renders_parts(self) -> bool:
        """Templates of text models print the Python form of a list of parts, or fail on it."""
        try:
            text = self._render([{"role": "user", "content": [{"type": "text", "text": _TRIAL_WORD}]}])
        except REFUSALS:
            return False
        return _TRIAL_WORD in text and "'text'" not in text


def _broken(token: re.Match[str]) -> str:
    text = token.group()
    return text[:1] + _ZERO_WIDTH_SPACE + text[1:]


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
