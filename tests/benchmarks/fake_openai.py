"""A loopback server that speaks OpenAI's streamed chat completions, well or badly."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class FakeServer:
    """Answers each request by what its `behaviour` says; keeps the bodies it was sent."""

    behaviour: str = "answer"
    tokens: int = 4
    pause_s: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    url: str = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeServer"]:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "fake"}]})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=500 if self.behaviour == "unhealthy" else 200)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        if self.behaviour == "busy once" and len(self.bodies) == 1:
            return web.json_response({"error": {"message": "later"}}, status=429, headers={"Retry-After": "1"})
        if self.behaviour.isdigit():
            headers = {"Retry-After": "7"} if self.behaviour in ("429", "503") else {}
            return web.json_response({"error": {"message": "no"}}, status=int(self.behaviour), headers=headers)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            return await self._stream(request)
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await _send(response, {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        for number in range(self.tokens):
            await asyncio.sleep(self.pause_s)
            await _send(response, {"choices": [{"delta": {"content": f"w{number} "}, "finish_reason": None}]})
            if number == 1 and self.behaviour in ("truncate", "reset"):
                if self.behaviour == "reset":
                    assert request.transport is not None
                    request.transport.abort()
                return response
            if number == 1 and self.behaviour.startswith("event:"):
                await _send(response, {"error": {"message": "oh", "code": self.behaviour.removeprefix("event:")}})
                return response
        await _send(response, {"choices": [{"delta": {}, "finish_reason": "length"}]})
        await _send(response, {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": self.tokens * 2}})
        if self.behaviour != "no end":
            await response.write(b"data: [DONE]\n\n")
        return response


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(event)}\n\n".encode())
