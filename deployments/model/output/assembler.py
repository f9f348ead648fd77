"""From the engine's tokens to the deltas of an answer: text, log-probabilities, finish reasons.

The engine's thread only appends to a mailbox; detokenizing happens where the answer is read, on the event loop.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable

from deployments.errors import SluiceError
from deployments.model.output.detokenizer import Decode, Detokenizer, StopStrings
from deployments.model.sequence import Timing, Token
from deployments.model.thoughts import Thoughts
from deployments.types import FinishReason, GenerateTimes, SamplingParams, Thinking, TokenDelta, TokenLogprob

Piece = Callable[[int], tuple[str, bytes]]

MOST_GATHERED = 4
"""Pieces of a stream become so many times as large where requests wait for their first token."""


class Mailbox:
    """A `Listener` whose letters are read on an event loop. The engine wakes a reader that waits, and no other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._tokens: deque[tuple[int, Token, FinishReason | None]] = deque()
        self._wants_token = False
        self._woken = asyncio.Event()
        self._error: SluiceError | None = None
        self.timing: Timing | None = None
        """Set when every choice has finished."""

    def on_token(self, choice: int, token: Token, finish: FinishReason | None) -> None:
        with self._lock:
            self._tokens.append((choice, token, finish))
            wake, self._wants_token = self._wants_token, False
        if wake:
            self._wake()

    def on_end(self, timing: Timing) -> None:
        self.timing = timing
        self._wake()

    def on_error(self, error: SluiceError) -> None:
        self._error = error
        self._wake()

    async def wait(self, *, for_end: bool) -> None:
        """Until there is something to read, or the end. Raises the request's error."""
        while True:
            self._woken.clear()
            with self._lock:
                self._wants_token = not for_end and not self._tokens
            if self._error is not None:
                raise self._error
            if self.timing is not None or (not for_end and self._tokens):
                return
            await self._woken.wait()

    async def gather(self, seconds: float) -> None:
        """Let tokens come for so long, or until the end. Raises the request's error."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wait(for_end=True)

    def take(self) -> list[tuple[int, Token, FinishReason | None]]:
        """Every token since the last call."""
        with self._lock:
            tokens = list(self._tokens)
            self._tokens.clear()
        return tokens

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._woken.set)


class ChoiceText:
    """One choice's text in the making."""

    def __init__(self, decode: Decode, params: SamplingParams, piece: Piece, thinking: Thinking | None) -> None:
        self._piece = piece
        self._params = params
        self._thoughts = Thoughts(thinking) if thinking else None
        self._detokenizer = Detokenizer(decode)
        self._stops = StopStrings(params.stop)
        self._num_tokens = 0
        self._stop_reason: str | int | None = None
        self.finish: FinishReason | None = None

    def push(self, index: int, tokens: list[tuple[Token, FinishReason | None]]) -> TokenDelta:
        """What these tokens add to choice `index`; what follows a stop string is ignored."""
        text, logprobs, ids, thoughts = "", [], [], 0
        for token, finish in tokens:
            if self.finish is not None:
                break
            self._num_tokens += 1
            ids.append(token.token_id)
            if self._thoughts is not None and self._thoughts.accept(token.token_id):
                thoughts += 1
            if self._params.logprobs is not None:
                logprobs.append(self._logprob(token))
            # A stop token ends the answer and is no part of its text.
            piece = "" if finish == "stop" else self._detokenizer.push(token.token_id)
            if finish is not None:
                piece += self._detokenizer.rest()
            out, stopped = self._stops.push(piece) if self._num_tokens > self._params.min_tokens else (piece, False)
            self.finish = "stop" if stopped else finish
            if stopped:
                self._stop_reason = self._stops.found
            elif finish == "stop" and token.token_id in self._params.stop_token_ids:
                self._stop_reason = token.token_id
            text += out if stopped or finish is None else out + self._stops.rest()
        return TokenDelta(
            index,
            text,
            len(ids),
            tuple(logprobs),
            self.finish,
            num_reasoning_tokens=thoughts,
            token_ids=tuple(ids) if self._params.return_token_ids else (),
            stop_reason=self._stop_reason,
        )

    def _logprob(self, token: Token) -> TokenLogprob:
        top = tuple(TokenLogprob(token_id, *self._piece(token_id), logprob) for token_id, logprob in token.top)
        return TokenLogprob(token.token_id, *self._piece(token.token_id), token.logprob, top)


class OutputAssembler:
    """All choices of one request."""

    def __init__(self, decode: Decode, params: SamplingParams, piece: Piece, thinking: Thinking | None = None) -> None:
        """`piece`: name and bytes of a token; `thinking`: which of them are thoughts."""
        self._choices = [ChoiceText(decode, params, piece, thinking) for _ in range(params.n)]

    @property
    def finished(self) -> bool:
        return all(choice.finish is not None for choice in self._choices)

    def deltas(self, tokens: list[tuple[int, Token, FinishReason | None]]) -> tuple[TokenDelta, ...]:
        """One delta for each choice that these tokens add something to."""
        deltas = []
        for index, choice in enumerate(self._choices):
            mine = [(token, finish) for number, token, finish in tokens if number == index]
            if mine and choice.finish is None:
                deltas.append(choice.push(index, mine))
        return tuple(deltas)


def gather_s(interval_s: float, awaiting: int) -> float:
    """How long tokens are gathered when so many requests wait for their first one.

    Where there is a core to spare nobody waits, and small pieces cost nothing. Where somebody does, they are paid for
    with the time of the ones who wait.
    """
    return interval_s * min(1 + awaiting, MOST_GATHERED)


def times(timing: Timing) -> GenerateTimes:
    return GenerateTimes(timing.queue_s, timing.encode_s, timing.prefill_s, timing.decode_s)
