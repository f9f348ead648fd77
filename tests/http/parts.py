"""Content parts of chat messages, as a client writes them."""

import base64
from typing import Any

Part = dict[str, Any]


def data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def text(words: str) -> Part:
    return {"type": "text", "text": words}


def image(data_or_url: bytes | str, media_type: str = "image/png") -> Part:
    return {"type": "image_url", "image_url": {"url": _url(data_or_url, media_type)}}


def video(data_or_url: bytes | str, media_type: str = "video/mp4") -> Part:
    return {"type": "video_url", "video_url": {"url": _url(data_or_url, media_type)}}


def audio(data_or_url: bytes | str, media_type: str = "audio/wav") -> Part:
    return {"type": "audio_url", "audio_url": {"url": _url(data_or_url, media_type)}}


def input_audio(data: bytes, fmt: str = "wav") -> Part:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": fmt}}


def user(*parts: Part | str) -> list[dict[str, Any]]:
    """The messages of a conversation with one user turn."""
    return [{"role": "user", "content": [text(p) if isinstance(p, str) else p for p in parts]}]


def _url(data_or_url: bytes | str, media_type: str) -> str:
    return data_or_url if isinstance(data_or_url, str) else data_url(data_or_url, media_type)
