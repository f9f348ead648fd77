"""How many tokens a text has at least, by its length alone: what can't fit is refused without being tokenised.

Tokenising two megabytes takes seconds of a thread that can't be stopped meanwhile.
"""

import json
import string
from typing import Any

_WORD = string.ascii_letters + string.digits
_KEEPING = (None, "NFC", "NFD")
"""Normalisers that neither drop nor join characters of ASCII, but for a letter with the mark that follows it."""

_JOINED = 3
"""How many times as many bytes a text may have before it is in normal form: letters and their marks become one."""


class TextBound:
    """Of one tokenizer. Bounds nothing where any number of unknown characters may become one token."""

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        described = {} if backend is None else json.loads(backend.to_str())
        tokens = _tokens(described)
        self._longest_word = max((sum(char in _WORD for char in token) for token in tokens), default=0)
        keeps = (described.get("normalizer") or {}).get("type") in _KEEPING
        self._longest = max(map(len, tokens), default=0) if keeps else 0
        self._longest_bytes = max((len(token.encode()) for token in tokens), default=0) if keeps else 0

    def least_tokens(self, text: str) -> int:
        """0 where nothing can be said."""
        plain = text.encode("ascii", "ignore")
        marks = len(text) - len(plain)  # each may join with a letter before it
        words = len(plain) - len(plain.translate(None, _WORD.encode()))
        by_words = (words - marks) // self._longest_word if self._longest_word else 0
        by_length = (len(plain) - marks) // self._longest if self._longest else 0
        by_bytes = len(text.encode(errors="ignore")) // (_JOINED * self._longest_bytes) if self._longest_bytes else 0
        return max(by_words, by_length, by_bytes, 0)


def _tokens(described: dict[str, Any]) -> list[str]:
    """Of a vocabulary that has a token for each byte."""
    model = described.get("model", {})
    byte_level = '"ByteLevel"' in json.dumps([described.get("pre_tokenizer"), described.get("decoder")])
    if model.get("type") != "BPE" or not (byte_level or model.get("byte_fallback")):
        return []
    return [*model["vocab"], *(token["content"] for token in described.get("added_tokens", []))]
