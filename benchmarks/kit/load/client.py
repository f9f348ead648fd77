"""One streamed chat completion, timed and judged."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from benchmarks.kit.load.outcome import Outcome, Verdict
from benchmarks.kit.load.workload import Request

_DONE = b"[DONE]"


@dataclass(slots=True)
class _Answer:
    """What came so far; instants are seconds since the run's start."""

    first_text_s: float | None = None
    last_text_s: float | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    pieces: int = 0
    finished: bool = False
    """A finish reason came."""
    complete: bool = False
    """`[DONE]` came."""
    error: dict[str, Any] | None = None

    def take(self, event: dict[str, Any], now_s: float) -> None:
        if event.get("error"):
            self.error = event["error"]
            return
        usage = event.get("usage") or {}
        self.tokens = usage.get("completion_tokens", self.tokens)
        self.prompt_tokens = usage.get("prompt_tokens", self.prompt_tokens)
        for choice in event.get("choices", ()):
            finished = choice.get("finish_reason") is not None
            self.finished |= finished
            if choice.get("delta", {}).get("content"):
                self.pieces += 1
                self.last_text_s = now_s
            if self.first_text_s is None and (self.last_text_s is not None or finished):
                self.first_text_s = now_s  # an answer without any text begins when it ends


@dataclass(frozen=True, slots=True)
class ChatClient:
    """Sends requests to one server. `started`: the run's start on `time.perf_counter`'s clock."""

    session: aiohttp.ClientSession
    url: str
    started: float
    timeout_s: float
    addresses: Iterator[str] = field(default_factory=lambda: iter(()))
    """Where each request says that it comes from."""
    says_done: bool = True
    """Whether an answer without `[DONE]` is a truncated one."""
    request_id: str = ""
    """What its requests are called, where that matters."""

    async def ask(self, request: Request, due_s: float) -> Outcome:
        """Never raises for what a server can do; an `Outcome` says it all."""
        sent_s = self.now_s()
        answer = _Answer()
        retry_after, worded = None, True
        try:
            async with asyncio.timeout(self.timeout_s), self._post(request) as response:
                if response.status == 200:
                    await self._read_events(response, answer)
                    answer.complete |= not self.says_done  # then the end of the stream is all there is
                    verdict, reason = _judge(answer)
                else:
                    body = await response.read()
                    retry_after = response.headers.get("Retry-After")
                    verdict, reason = _judge_status(response.status)
                    worded = _is_error_object(body)
        except TimeoutError:
            verdict, reason = "gave_up", "client timeout"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            verdict, reason = "failed", type(error).__name__
        ended_s = self.now_s()
        return Outcome(
            kind=request.kind,
            due_s=due_s,
            sent_s=sent_s,
            ended_s=ended_s,
            verdict=verdict,
            reason=reason,
            first_text_s=answer.first_text_s,
            last_text_s=answer.last_text_s,
            tokens=answer.tokens or answer.pieces,
            prompt_tokens=answer.prompt_tokens,
            retry_after=retry_after,
            worded=worded,
        )

    def now_s(self) -> float:
        """Seconds since the run's start."""
        return time.perf_counter() - self.started

    def _post(self, request: Request) -> Any:
        headers = {"Content-Type": "application/json"}
        if address := next(self.addresses, ""):
            headers["x-forwarded-for"] = address
        if self.request_id:
            headers["x-request-id"] = self.request_id
        return self.session.post(f"{self.url}/v1/chat/completions", data=request.body, headers=headers)

    async def _read_events(self, response: aiohttp.ClientResponse, answer: _Answer) -> None:
        async for line in response.content:
            if not line.startswith(b"data:"):
                continue
            data = line[len(b"data:") :].strip()
            if data == _DONE:
                answer.complete = True
                return
            answer.take(orjson.loads(data), self.now_s())


def _is_error_object(body: bytes) -> bool:
    """Whether it is an error as OpenAI words it."""
    try:
        error = orjson.loads(body)["error"]
        return isinstance(error["message"], str) and {"type", "param", "code"} <= error.keys()
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return False


def _judge(answer: _Answer) -> tuple[Verdict, str]:
    if answer.error is not None:
        code = str(answer.error.get("code") or answer.error.get("type"))
        expired = code in ("timeout", "timeout_error", "504")
        return ("expired" if expired else "failed"), f"stream error: {code}"
    if not (answer.complete and answer.finished):
        return "failed", "truncated stream"
    return "answered", ""


def _judge_status(status: int) -> tuple[Verdict, str]:
    if status in (429, 503):
        return "refused", f"http {status}"
    return ("expired" if status == 504 else "failed"), f"http {status}"
