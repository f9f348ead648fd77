"""What a model thinks aloud, told apart from its answer, as the text comes."""

from deployments.ingress.tools.parser import overlap
from deployments.types import Thinking


class ThoughtSplitter:
    """Reads one answer. Thoughts come first or not at all; later marks are text."""

    def __init__(self, thinking: Thinking) -> None:
        self._thinking = thinking
        self._text = ""
        """Not yet told."""
        self._inside = thinking.is_open
        self._waiting = not thinking.is_open
        """Whether it can't be told yet if the answer begins with thoughts."""
        self._trim = True
        """Whether white space before the next text is layout."""

    def push(self, text: str) -> tuple[str, str]:
        """Thoughts, and answer."""
        self._text += text
        thoughts = ""
        if self._waiting and not self._begun():
            return "", ""
        if self._inside:
            thoughts = self._read_thoughts()
        return thoughts, "" if self._inside else self._taken()

    def finish(self) -> tuple[str, str]:
        """What was held back."""
        text, self._text = self._text, ""
        return (text.rstrip(), "") if self._inside else ("", text)

    def _begun(self) -> bool:
        text = self._text.lstrip()
        if text.startswith(self._thinking.begin):
            self._text, self._inside, self._waiting = text[len(self._thinking.begin) :], True, False
        elif not self._thinking.begin.startswith(text):
            self._waiting = self._trim = False
        return not self._waiting

    def _read_thoughts(self) -> str:
        end = self._thinking.end
        place = self._text.find(end)
        if place >= 0:
            thoughts, self._text = self._text[:place].rstrip(), self._text[place + len(end) :]
            thoughts = thoughts.lstrip() if self._trim else thoughts
            self._inside, self._trim = False, True
            return thoughts
        told = self._text[: len(self._text) - overlap(self._text, end)].rstrip()
        self._text = self._text[len(told) :]
        if self._trim:
            told = told.lstrip()
            self._trim = not told
        return told

    def _taken(self) -> str:
        text, self._text = self._text, ""
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        return text
