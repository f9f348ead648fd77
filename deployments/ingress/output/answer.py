"""An answer in the making, whatever API it is worded for: text, thoughts and calls of tools told apart."""

import secrets
import string
from dataclasses import dataclass, field

from deployments.ingress.output.thoughts import ThoughtSplitter
from deployments.ingress.pipeline.pipeline import ReadyPrompt
from deployments.ingress.request import GenerationRequest
from deployments.ingress.tools.formats import new_parser
from deployments.ingress.tools.parser import CallArguments, CallStart, Content, ToolEvent
from deployments.types import GenerateChunk, GenerateTimes, Thinking, TokenDelta, TokenLogprob, ToolFormat

_ID_CHARS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class CallDelta:
    """What is new of a call: its beginning has an id and a name, what follows are pieces of the arguments."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    """What is new of one choice."""

    index: int
    content: str
    thoughts: str
    calls: tuple[CallDelta, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: str | None
    """`stop`, `length` or `tool_calls`."""
    token_ids: tuple[int, ...]

    @property
    def says_something(self) -> bool:
        return bool(
            self.content or self.thoughts or self.calls or self.logprobs or self.finish_reason or self.token_ids
        )


@dataclass(slots=True)
class Call:
    """A call of a tool, as far as it has come."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class AnswerChoice:
    """One of the `n` answers, as far as it has come."""

    index: int
    content: str = ""
    thoughts: str = ""
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    num_tokens: int = 0
    num_reasoning_tokens: int = 0


class Answer:
    """All choices of one request."""

    def __init__(self, request: GenerationRequest, prompt: ReadyPrompt, tool_format: ToolFormat | None) -> None:
        self.prompt = prompt
        self.reuses = request.reuse
        self.times: GenerateTimes | None = None
        self.cached_tokens = 0
        self.encoded = prompt.encoded
        """Labels of the items that the model's towers had to look at."""
        self.choices = [AnswerChoice(index, request.echo) for index in range(request.params.n)]
        thinking = prompt.prepared.thinking
        self._scored = prompt.prepared.counts.total if request.params.score_prompt else 0
        self._readers = [_ChoiceReader(choice, request, thinking, tool_format) for choice in self.choices]

    @property
    def completion_tokens(self) -> int:
        return sum(max(0, choice.num_tokens - self._scored) for choice in self.choices)

    @property
    def reasoning_tokens(self) -> int:
        return sum(choice.num_reasoning_tokens for choice in self.choices)

    def add(self, chunk: GenerateChunk) -> list[ChoiceDelta]:
        """What a chunk adds, choice by choice, where it adds something."""
        self.times = chunk.times or self.times
        self.cached_tokens += chunk.cached_tokens
        self.encoded |= chunk.encoded
        deltas = [self._readers[delta.index].add(delta) for delta in chunk.deltas]
        return [delta for delta in deltas if delta.says_something]


class _ChoiceReader:
    def __init__(
        self,
        choice: AnswerChoice,
        request: GenerationRequest,
        thinking: Thinking | None,
        tool_format: ToolFormat | None,
    ) -> None:
        self._choice = choice
        self._splitter = ThoughtSplitter(thinking) if thinking else None
        self._shows = request.show_reasoning
        use = request.tool_use
        self._parser = new_parser(tool_format, use.tools) if use and tool_format else None
        self._most_calls = None if use is None or use.parallel else 1

    def add(self, delta: TokenDelta) -> ChoiceDelta:
        ended = delta.finish_reason is not None
        thoughts, text = self._split(delta.text, ended)
        content, calls = self._read(text, ended)
        choice = self._choice
        choice.content += content
        choice.thoughts += thoughts
        choice.logprobs += delta.logprobs
        choice.token_ids += delta.token_ids
        choice.num_tokens += delta.num_tokens
        choice.num_reasoning_tokens += delta.num_reasoning_tokens
        choice.stop_reason = delta.stop_reason
        finish: str | None = delta.finish_reason
        if finish == "stop" and choice.calls:
            finish = "tool_calls"
        choice.finish_reason = finish or choice.finish_reason
        return ChoiceDelta(choice.index, content, thoughts, tuple(calls), delta.logprobs, finish, delta.token_ids)

    def _split(self, text: str, ended: bool) -> tuple[str, str]:
        if self._splitter is None:
            return "", text
        thoughts, answer = self._splitter.push(text)
        if ended:
            more_thoughts, more = self._splitter.finish()
            thoughts, answer = thoughts + more_thoughts, answer + more
        return thoughts if self._shows else "", answer

    def _read(self, text: str, ended: bool) -> tuple[str, list[CallDelta]]:
        if self._parser is None:
            return text, []
        events = self._parser.push(text) + (self._parser.finish() if ended else [])
        content = "".join(event.text for event in events if isinstance(event, Content))
        return content, [call for event in events if (call := self._called(event)) is not None]

    def _called(self, event: ToolEvent) -> CallDelta | None:
        calls = self._choice.calls
        if isinstance(event, CallStart):
            calls.append(Call("call_" + "".join(secrets.choice(_ID_CHARS) for _ in range(24)), event.name))
        if isinstance(event, Content) or (self._most_calls is not None and len(calls) > self._most_calls):
            return None
        if isinstance(event, CallArguments):
            calls[-1].arguments += event.text
            return CallDelta(len(calls) - 1, event.text)
        return CallDelta(len(calls) - 1, "", calls[-1].id, calls[-1].name)
