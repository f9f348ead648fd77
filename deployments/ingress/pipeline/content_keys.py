"""What a call is about, in a word: calls of one key go to one replica, which then finds again what it keeps.

Of media that word is a SHA-256 of all that they are, the same by which what was made of them is found again: nobody can
make two contents that have one. Prompts' keys only say where to ask: two of one key would be slower, never wrong.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.ingress.http.media_text import MediaText
from deployments.types import Chat, ChatMessage, Fetched, PlainPrompt

PLAIN_CHARACTERS = 256
"""Of a text without messages: it may be a growing one."""
PLAIN_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Content:
    """What a media item holds."""

    key: str
    size_bytes: int


def source_name(source: str | bytes | bytearray) -> str:
    """Of a URL, or of the text of a `data:` URL, which is its content. A gigabyte a second or two."""
    if isinstance(source, MediaText):
        return f"data {source.digest}"
    kind, text = ("url", source.encode()) if isinstance(source, str) else ("data", source)
    return f"{kind} {hashlib.sha256(text).hexdigest()}"


def content_of(sources: Sequence[str], files: Sequence[Fetched]) -> Content:
    """Of an item's files, wherever they came from; `sources`, their own names, where the fetcher made no digests."""
    key = _key("files", *(file.digest or source for source, file in zip(sources, files, strict=True)))
    return Content(key, sum(file.file_bytes for file in files))


def prompt_key(prompt: Chat | PlainPrompt, items: Sequence[Content], salt: str) -> str:
    """Of an answer: what is dear to compute again in this conversation and in others about the same media.

    That is the largest item of the first message with media, whatever is said about it; without media, what the
    conversation begins with, up to the end of what the user says first. Both stay what they are while the conversation
    grows. `items`: the request's, in order. `salt`: nothing is shared beyond one.
    """
    if isinstance(prompt, PlainPrompt):
        begin = prompt.text[:PLAIN_CHARACTERS] if prompt.token_ids is None else str(prompt.token_ids[:PLAIN_TOKENS])
        return _key("plain", begin, salt)
    for message in prompt.messages:
        present = [items[part.item] for part in message.parts if part.item is not None]
        if present:
            return _key("media", max(present, key=lambda item: item.size_bytes).key, salt)
    return _key("text", *_beginning(prompt.messages), salt)


def _beginning(messages: Sequence[ChatMessage]) -> list[str]:
    said: list[str] = []
    for message in messages:
        said += [message.role, *(part.text or "" for part in message.parts)]
        if message.role == "user":
            break
    return said


def _key(*pieces: str) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        content = piece.encode()
        hasher.update(len(content).to_bytes(8))
        hasher.update(content)
    return hasher.hexdigest()
