"""What an answer with tool calls is read into, whatever format the model writes them in, and the interface of readers.

Knows no format. A reader is fed with text as it comes, cut anywhere, and tells what can be told by then: plain text at
once but for what may be the beginning of a call, a call's name as soon as it is whole, its arguments in pieces.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins; the arguments that follow are its own."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON text of the arguments of the call that began last."""

    text: str


ToolEvent = Content | CallStart | CallArguments


class ToolParser(Protocol):
    """Reads one answer."""

    def push(self, text: str) -> list[ToolEvent]:
        """What this text adds."""
        ...

    def finish(self) -> list[ToolEvent]:
        """At the end of the answer: what was held back. A call that broke off before it had a name becomes text."""
        ...


class CallReader(Protocol):
    """Reads one call, from behind the marker that announces it."""

    def push(self, text: str) -> tuple[list[ToolEvent], str | None]:
        """What this text adds, and the text behind the call once it has ended."""
        ...

    @property
    def raw(self) -> str | None:
        """All of the text so far while it can't be told that this is a call; None afterwards."""
        ...


def overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` which is a proper beginning of `marker`."""
    longest = min(len(text), len(marker) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(marker[:size])), 0)


def joined(events: list[ToolEvent]) -> list[ToolEvent]:
    """The same with neighbouring pieces of one kind made one, and empty ones left out."""
    whole: list[ToolEvent] = []
    for event in events:
        last = whole[-1] if whole else None
        if isinstance(event, Content) and isinstance(last, Content):
            whole[-1] = Content(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments):
            whole[-1] = CallArguments(last.text + event.text)
        elif isinstance(event, CallStart) or event.text:
            whole.append(event)
    return whole
