"""Calls between markers in running text: `<tool_call>` … `</tool_call>` and their like."""

from collections.abc import Callable

from deployments.ingress.tools.parser import CallReader, Content, ToolEvent, joined, overlap


class MarkedCalls:
    """A `ToolParser`: text until `begin`, then a call until its own end and `end`, then text again."""

    def __init__(self, begin: str, end: str, new_call: Callable[[], CallReader]) -> None:
        self._begin = begin
        self._end = end
        self._new_call = new_call
        self._text = ""
        """Not yet told: what may become a marker, and white space that may stand before one."""
        self._call: CallReader | None = None
        self._closing = False
        """Behind a call, where its end marker is expected."""
        self._called = False

    def push(self, text: str) -> list[ToolEvent]:
        self._text += text
        events: list[ToolEvent] = []
        while self._step(events):
            pass
        return joined(events)

    def finish(self) -> list[ToolEvent]:
        text, self._text = self._text, ""
        if self._call is not None:
            raw, self._call = self._call.raw, None
            return [] if raw is None else [Content(self._begin + raw)]
        if self._closing or (self._called and not text.strip()):
            return []
        return joined([Content(text)])

    def _step(self, events: list[ToolEvent]) -> bool:
        """Take one thing out of the text; False when more of it must come first."""
        if self._call is not None:
            told, rest = self._call.push(self._text)
            events += told
            self._text = rest or ""
            if rest is not None:
                self._call, self._closing = None, bool(self._end)
            return rest is not None
        if self._closing:
            return self._close()
        place = self._text.find(self._begin)
        if place >= 0:
            events.append(Content(self._text[:place].rstrip()))
            self._text = self._text[place + len(self._begin) :]
            self._call, self._called = self._new_call(), True
            return True
        held = overlap(self._text, self._begin)
        told_text = self._text[: len(self._text) - held].rstrip()
        if not self._called or told_text.strip():
            events.append(Content(told_text))
            self._text = self._text[len(told_text) :]
        return False

    def _close(self) -> bool:
        text = self._text.lstrip()
        if text.startswith(self._end):
            self._text, self._closing = text[len(self._end) :], False
            return True
        if self._end.startswith(text):
            return False
        self._text, self._closing = text, False  # the model forgot it
        return True
