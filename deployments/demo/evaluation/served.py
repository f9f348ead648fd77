"""Answers by a running server, over its OpenAI-compatible HTTP interface."""

import base64
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from deployments.demo.evaluation.cases import Case, MediaFile

MAX_TOKENS = 24
TIMEOUT_S = 300.0


class Served:
    """The server at `url`, asked by up to `together` requests at once."""

    def __init__(self, url: str, together: int = 8, options: Mapping[str, Any] | None = None) -> None:
        """`options`: more fields of each request."""
        self._url = url.rstrip("/")
        self._options = dict(options or {})
        self._pool = ThreadPoolExecutor(together)
        with urlopen(f"{self._url}/v1/models", timeout=TIMEOUT_S) as response:
            self._model = json.load(response)["data"][0]["id"]

    def answers(self, case: Case) -> list[str]:
        """The greedy answer to each question of `case`, each asked by a request of its own."""
        media = [media_part(file) for file in case.files]
        return list(self._pool.map(lambda ask: self._ask(case, media, ask.text), case.asks))

    def _ask(self, case: Case, media: list[dict[str, Any]], question: str) -> str:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": [*media, {"type": "text", "text": question}]}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            **self._options,
        }
        if any(file.part == "video" for file in case.files):
            body["num_frames"] = case.num_frames
        if case.with_sound:
            body["use_audio_in_video"] = True
        request = Request(
            f"{self._url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with _opened(request) as response:
            return str(json.load(response)["choices"][0]["message"]["content"])


def _opened(request: Request) -> Any:
    """The response; a server that is busy says when to ask again."""
    while True:
        try:
            return urlopen(request, timeout=TIMEOUT_S)
        except HTTPError as error:
            if error.code != HTTPStatus.TOO_MANY_REQUESTS:
                raise
            time.sleep(float(error.headers["Retry-After"]))


def media_part(file: MediaFile) -> dict[str, Any]:
    """`file` as an OpenAI content part with a `data:` URL."""
    name = f"{file.part}_url"
    return {"type": name, name: {"url": f"data:{file.mime};base64,{base64.b64encode(file.data).decode()}"}}
