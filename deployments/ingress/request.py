"""What is asked, whatever API it came by: what the pipeline and the admission take."""

from dataclasses import dataclass

from deployments.ingress.wire import NO_FRAME_OPTIONS, FrameOptions
from deployments.types import Chat, DeclaredSize, MediaItem, MediaKind, PlainPrompt, SamplingParams, Tool


@dataclass(slots=True)
class Source:
    """Where the bytes of an item, or of one picture of a list, come from."""

    item: MediaItem
    data: bytearray | None
    """The text of a `data:` URL, until it has been put into shared memory."""

    @property
    def is_gone(self) -> bool:
        """It came in the body, and has been handed on: it can't be read again."""
        return self.data is None and self.item.url is None

    def take(self) -> bytearray | None:
        """`data`, which this source then no longer holds."""
        data, self.data = self.data, None
        return data


@dataclass(frozen=True, slots=True)
class ItemPlan:
    """One media item of a request."""

    kind: MediaKind
    label: str
    sources: tuple[Source, ...]
    is_list: bool = False
    """A video given as a list of pictures, one source each."""
    frames: FrameOptions = NO_FRAME_OPTIONS
    embeds: bool = False
    """Its only source is a safetensors file of its encoder outputs."""
    declared: DeclaredSize | None = None
    """What the client tells of an item that is not looked at; without sources it is only counted."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request, and whether the model must call one."""

    tools: tuple[Tool, ...]
    required: bool = False
    """The answer is one call or more, of any of `tools`."""
    parallel: bool = True
    """Whether one answer may call several times."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request, checked against everything that can be checked before any work."""

    model: str
    """Which of the server's models is asked."""
    prompt: Chat | PlainPrompt
    items: tuple[ItemPlan, ...]
    frames: FrameOptions
    """The request's own; an item's override them."""
    params: SamplingParams
    stream: bool = False
    include_usage: bool = False
    """Whether a stream ends with a usage."""
    continuous_usage: bool = False
    """Whether each piece of a stream carries the usage so far."""
    tool_use: ToolUse | None = None
    show_reasoning: bool = True
    """Whether thoughts are told apart from the answer; otherwise they are left out."""
    echo: str = ""
    """What the answer begins with, out of the request itself."""
    reuse: bool = True
    """Whether what is kept of earlier requests may be used for it, and what is made of it kept."""
    wording: object = None
    """What the endpoint's own writer wants to know of the request; nobody else looks at it."""
