"""Token ids to text, token by token: whole characters only, and stop strings found wherever token borders fall.

Shape legend: none; everything here is ids and strings of one choice.
"""

from collections.abc import Callable, Sequence

INCOMPLETE = "�"
"""What tokenizers decode the bytes of half a character to."""

CHARACTER_BYTES = 4
"""Of the longest character in UTF-8."""
MAX_HELD = 8
"""Tokens without text of their own so far; a character has at most four, of a byte each."""

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """The text of a growing list of tokens. `decode` is the tokenizer's, without special tokens."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._token_ids: list[int] = []
        self._context = 0
        """First token that still shapes how the next ones decode (spaces, merged bytes)."""
        self._emitted = 0
        """Tokens whose text is out."""

    def push(self, token_id: int) -> str:
        """Text that this token completes; empty while a character is incomplete."""
        self._token_ids.append(token_id)
        before = self._decode(self._token_ids[self._context : self._emitted])
        now = self._decode(self._token_ids[self._context :])
        if now.endswith(INCOMPLETE) or len(now) <= len(before):
            return "" if len(self._token_ids) - self._emitted < MAX_HELD else self._give_up(now, before)
        self._context, self._emitted = self._emitted, len(self._token_ids)
        return now[len(before) :]

    def _give_up(self, now: str, before: str) -> str:
        """Text of tokens that will never be whole characters, but for those which may still begin one.

        Otherwise they would be held, and decoded again with each further token, to the end of the answer.
        """
        size = len(self._token_ids)
        for kept in range(1, CHARACTER_BYTES):
            head = self._decode(self._token_ids[self._context : size - kept])
            if head + self._decode(self._token_ids[size - kept :]) == now:
                self._context = self._emitted = size - kept
                return head[len(before) :]
        self._context, self._emitted = self._emitted, size
        return now[len(before) :]

    def rest(self) -> str:
        """At the end: whole characters that `push` still held back; half a character at the very end is dropped."""
        before = self._decode(self._token_ids[self._context : self._emitted])
        now = self._decode(self._token_ids[self._context :]).rstrip(INCOMPLETE)
        self._context = self._emitted = len(self._token_ids)
        return now[len(before) :]


class StopStrings:
    """Holds back text that may be the start of a stop string; cuts at the first stop string found."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found: str | None = None
        """The stop string that has ended the text."""

    def push(self, text: str) -> tuple[str, bool]:
        """Text that may go out, and whether a stop string has ended it."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            place, self.found = min(found)
            self._held = ""
            return text[:place], True
        keep = max(self._overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def rest(self) -> str:
        """What was held back, at the end of an answer that no stop string ended."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` which is a proper beginning of `stop`."""
        longest = min(len(text), len(stop) - 1)
        return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
