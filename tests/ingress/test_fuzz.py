"""Bodies that are almost right: an answer or a 4xx, never a defect, and nothing held afterwards."""

import asyncio
import json
import os
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fakes import FakeApplication

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
URL = "https://media.example/x"
DATA = "data:image/png;base64," + "QUJD" * 2000
GOOD: list[dict[str, Any]] = [
    {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stop": ["a"], "n": 2},
    {
        "model": "demo",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "be short"}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA, "detail": "low"}}]},
            {"role": "assistant", "content": None},
            {"role": "user", "content": [{"type": "video_url", "video_url": {"url": URL}, "fps": 2}]},
        ],
        "mm_processor_kwargs": {"max_pixels": 10, "num_frames": 4},
    },
    {
        "model": "demo",
        "messages": [
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}]},
            {"role": "user", "content": [{"type": "video", "video": [URL, DATA], "fps": 1.5}]},
        ],
        "logprobs": True,
        "top_logprobs": 1,
        "logit_bias": {"1": 2},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    },
]
odd = st.sampled_from([None, True, 0, -1, 1e999, 2**70, "", "x", "\x00", "data:", DATA, [], {}, [[]], {"type": None}])


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something may be replaced."""
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, child in inner for path in paths(child, (*here, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@st.composite
def nearly_right(draw: st.DrawFn) -> bytes:
    document: Any = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(paths(document)))
        document = replaced(document, path, draw(odd | st.sampled_from(GOOD) | st.text(max_size=9)))
    raw = json.dumps(document).encode()
    return broken(raw, draw(st.integers(0, 2**32))) if draw(st.integers(0, 4)) == 0 else raw


def broken(raw: bytes, seed: int) -> bytes:
    """A few bytes changed, dropped or doubled."""
    chance, mutated = random.Random(seed), bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(mutated) + 1)
        mutated[at : at + chance.randint(0, 3)] = chance.choice([b"", b'"', b"\\", b"{", b"\xff", b"0", b'"data:'])
    return bytes(mutated)


@given(nearly_right())
@settings(max_examples=EXAMPLES, deadline=None)
def test_nearly_right_bodies_are_answered_or_refused(raw: bytes) -> None:
    asyncio.run(_post(raw))


async def _post(raw: bytes) -> None:
    app = FakeApplication()
    async with app.client() as client:
        response = await client.post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400, 404, 413), response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(response.content) < 4000
        assert "QUJDQUJD" not in response.text
    assert app.api.admission.media.held_bytes == app.lanes.media.running == 0
    assert app.lanes.text.running == app.api.admission.bodies.held_bytes == 0
