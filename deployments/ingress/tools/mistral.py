"""Mistral's calls: `[TOOL_CALLS][{"name": "f", "arguments": {}}]` and `[TOOL_CALLS]f[ARGS]{}`."""

from deployments.ingress.tools.json_call import JsonCall
from deployments.ingress.tools.parser import CallArguments, CallStart, Content, ToolEvent, joined, overlap

MARK, ARGS = "[TOOL_CALLS]", "[ARGS]"


class MistralAnswer:
    """A `ToolParser`."""

    def __init__(self) -> None:
        self._text = ""
        self._called = False
        self._in_list = False
        self._call: JsonCall | None = None
        self._named = False
        """Whether the arguments of a call of the second form are being read."""

    def push(self, text: str) -> list[ToolEvent]:
        self._text += text
        events: list[ToolEvent] = []
        while self._step(events):
            pass
        return joined(events)

    def finish(self) -> list[ToolEvent]:
        if self._call is not None:
            raw = self._call.raw
            return [] if raw is None else [Content(MARK + raw)]
        text, self._text = self._text, ""
        return [] if self._called else joined([Content(text)])

    def _step(self, events: list[ToolEvent]) -> bool:
        if self._named:
            return self._read_arguments(events)
        if self._call is not None:
            told, rest = self._call.push(self._text)
            events += told
            self._text = rest or ""
            if rest is not None:
                self._call = None
            return rest is not None
        return self._read_call(events) if self._called else self._read_text(events)

    def _read_text(self, events: list[ToolEvent]) -> bool:
        place = self._text.find(MARK)
        if place >= 0:
            events.append(Content(self._text[:place].rstrip()))
            self._text, self._called = self._text[place + len(MARK) :], True
            return True
        told = self._text[: len(self._text) - overlap(self._text, MARK)].rstrip()
        events.append(Content(told))
        self._text = self._text[len(told) :]
        return False

    def _read_call(self, events: list[ToolEvent]) -> bool:
        text = self._text.lstrip().removeprefix(MARK).lstrip(" ,\n]" if self._in_list else None)
        if text.startswith("[") and not self._in_list and not ARGS.startswith(text[:6]):
            text, self._in_list = text[1:].lstrip(), True
        if text.startswith("{"):
            self._text, self._call = text, JsonCall()
            return True
        place = text.find(ARGS)
        if self._in_list or place < 0:
            return False
        name = text[:place].partition("[CALL_ID]")[0].strip()
        events.append(CallStart(name))
        self._text, self._named = text[place + len(ARGS) :].lstrip(), True
        return True

    def _read_arguments(self, events: list[ToolEvent]) -> bool:
        """The object behind `[ARGS]`: up to the next call, or to the end."""
        place = self._text.find(MARK)
        if place >= 0:
            events.append(CallArguments(self._text[:place].rstrip()))
            self._text, self._named = self._text[place:], False
            return True
        held = overlap(self._text, MARK)
        told = self._text[: len(self._text) - held].rstrip()
        events.append(CallArguments(told))
        self._text = self._text[len(told) :]
        return False
