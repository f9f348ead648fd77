"""The baseline: a multimodal server made the usual way. `python -m benchmarks monolith --model DIR --port 8100`

One process: FastAPI, media loaded in the handler by transformers' own `load_image` and `load_video` (PyAV), the Hugging
Face processor, `model.generate` behind a lock, a `TextIteratorStreamer`. Handlers are plain functions, so that FastAPI
runs them on its threads and the event loop stays free for `/health`. Nobody is refused, and an answer whose client has
gone is computed to its end, as is usual. Nothing is slowed down on purpose, and frames are sampled as Sluice samples.
"""

import argparse
import base64
import io
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import soundfile
import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray
from transformers import AutoModelForMultimodalLM, AutoProcessor, TextIteratorStreamer
from transformers.image_utils import load_image
from transformers.video_utils import load_video

from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model

FPS = 2.0
"""Frames a second taken from a video when a request does not say."""


class Monolith:
    """The checkpoint, its processor, and the lock that one request at a time holds."""

    def __init__(self, model: str, dtype: str) -> None:
        folder = resolve_model(AppConfig(model=model))
        self._processor = AutoProcessor.from_pretrained(folder)
        self._model = AutoModelForMultimodalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self._lock = threading.Lock()

    def answer(self, body: dict[str, Any]) -> Iterator[str]:
        """Server-sent events of one chat completion. The media are loaded before the first event is asked for."""
        fps = body.get("mm_processor_kwargs", {}).get("fps", FPS)
        inputs = self._prepare(body["messages"], fps)
        return self._events(inputs, body)

    def _prepare(self, messages: list[dict[str, Any]], fps: float) -> Any:
        media: dict[str, list[Any]] = {"images": [], "videos": [], "audio": []}
        metadata: list[Any] = []
        chat = [{"role": said["role"], "content": _parts(said["content"], media, metadata, fps)} for said in messages]
        text = self._processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        given = {name: values for name, values in media.items() if values}
        return self._processor(text=[text], return_tensors="pt", **given, **self._options(metadata))

    def _options(self, metadata: list[Any]) -> dict[str, Any]:
        # The checkpoint's own sizes are said again with each call, since some processor classes put theirs before them.
        options: dict[str, Any] = {"images_kwargs": {"size": dict(self._processor.image_processor.size)}}
        if metadata:
            sizes = dict(self._processor.video_processor.size)
            options["videos_kwargs"] = {"size": sizes, "video_metadata": metadata, "do_sample_frames": False}
        return options

    def _events(self, inputs: Any, body: dict[str, Any]) -> Iterator[str]:
        limit = body.get("max_tokens", 256)
        streamer = TextIteratorStreamer(self._processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        counted: list[int] = []

        def generate() -> None:
            least = limit if body.get("ignore_eos") else 0
            try:
                with self._lock, torch.inference_mode():
                    tokens = self._model.generate(
                        **inputs, max_new_tokens=limit, min_new_tokens=least, do_sample=False, streamer=streamer
                    )
                counted.append(tokens.shape[1] - inputs["input_ids"].shape[1])
            finally:
                streamer.end()

        worker = threading.Thread(target=generate, daemon=True)
        worker.start()
        for text in streamer:
            yield _event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
        worker.join()
        usage = {"prompt_tokens": inputs["input_ids"].shape[1], "completion_tokens": counted[0]}
        yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        yield _event({"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"


def _parts(content: str | list[dict[str, Any]], media: dict[str, list[Any]], metadata: list[Any], fps: float) -> Any:
    """The content as chat templates take it; what it holds is loaded into `media`."""
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        kind = part["type"].removesuffix("_url")
        parts.append(part if kind == "text" else {"type": kind})
        if kind == "image":
            media["images"].append(load_image(part["image_url"]["url"]))
        elif kind == "video":
            frames, about = _load_video(part["video_url"]["url"], fps)
            media["videos"].append(frames)
            metadata.append(about)
        elif kind == "audio":
            media["audio"].append(soundfile.read(io.BytesIO(_payload(part["audio_url"]["url"])), dtype="float32")[0])
    return parts


def _load_video(url: str, fps: float) -> tuple[NDArray[Any], Any]:
    if not url.startswith("data:"):
        return load_video(url, fps=fps)
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(_payload(url))
        file.flush()
        return load_video(file.name, fps=fps)


def _payload(url: str) -> bytes:
    if not url.startswith("data:"):
        raise HTTPException(400, "sounds are taken from data: URLs only")
    return base64.b64decode(url.partition(",")[2])


def _event(event: dict[str, Any]) -> str:
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'created': int(time.time())} | event)}\n\n"


def build_app(model: str, dtype: str = "float32") -> FastAPI:
    monolith = Monolith(model, dtype)
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model, "object": "model"}]}

    @app.post("/v1/chat/completions")
    def chat(body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(monolith.answer(body), media_type="text/event-stream")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks monolith", description=__doc__)
    parser.add_argument("--model", default="demo", help="`demo` or a local checkpoint")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--port", type=int, default=8100)
    args = parser.parse_args()
    uvicorn.run(build_app(args.model, args.dtype), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
