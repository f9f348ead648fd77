"""What attackers send, by kind: encoded once, before the clock runs, so that attacking costs next to nothing.

Where a server could remember what it has seen, `NUMBER` stands for a number that is another one each time.
"""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

from PIL import Image

from benchmarks.hostile.slow_host import SlowHost
from tests.support.hostile.bombs import bombs_of

NUMBER = 15_485_863
_MAX_TEXT = 1_900_000
"""Characters of a body without media."""

Fields = dict[str, Any]


def _body(content: Any = "hi", **fields: Any) -> bytes:
    message = {"role": "user", "content": content}
    return json.dumps({"model": "demo", "max_tokens": 4, "messages": [message], **fields}).encode()


def _about(*parts: Fields) -> bytes:
    return _body([*parts, {"type": "text", "text": "x"}])


def _part(kind: str, url: str) -> Fields:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def _schema(schema: Any) -> Fields:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def ids() -> list[bytes]:
    """Ids outside the vocabulary."""
    return [_body(logit_bias={"999999999": 1}), _body(stop_token_ids=[2**31 - 1], min_tokens=2)]


def grammars() -> list[bytes]:
    """Schemas that explode, never the same one twice."""
    schemas = [
        {"type": "integer", "multipleOf": NUMBER},
        {"const": f"{NUMBER}" + "ab" * 900_000},
        {"type": "object", "properties": {f"p{NUMBER}_{i}": {"type": "string"} for i in range(4000)}},
        {"type": "string", "title": f"{NUMBER}", "minLength": 200_000, "maxLength": 400_000},
    ]
    return [_body(response_format=_schema(schema)) for schema in schemas]


def nesting() -> list[bytes]:
    """Bodies that are nested deeply, where they are read and where they are passed on."""
    deep = '{"a":' * 480 + "1" + "}" * 480
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}]})
    return [f'{body[:-1]}, "{name}": {deep}}}'.encode() for name in ("mm_processor_kwargs", "response_format")]


def media_hosts(host: SlowHost) -> list[bytes]:
    """Hosts that promise, drip, hold back and pack air."""
    kinds = ("drip", "hold", "headers", "bomb")
    return [_about(*(_part("video", host.url(kind, f"{NUMBER}-{i}")) for i in range(4))) for kind in kinds]


def names() -> list[bytes]:
    """Names whose servers stay silent, and names of this machine's inside."""
    silent = [_part("image", f"http://n{NUMBER}-{i}.silent.invalid/") for i in range(15)]
    return [_about(*silent, _part("image", "http://localhost/"))]


def long_texts() -> list[bytes]:
    """As much text as a body may hold, to be found too long."""
    return [_body(word * (_MAX_TEXT // 6)) for word in ("word ", "\n=", "é")]


def answers(half_character: int) -> list[bytes]:
    """Small requests whose answers cost much: half characters, log-probabilities, odd settings."""
    length = {"max_tokens": 600, "ignore_eos": True, "n": 4}
    return [
        _body(**length, logit_bias={str(half_character): 100}),
        _body(**length, logprobs=True, top_logprobs=20),
        _body(temperature=1e-38, seed=1),
        _body(response_format=_schema({"const": "e\u0301"}), min_tokens=4),
    ]


def pictures() -> list[bytes]:
    """Pictures at the limit of pixels that weigh nothing."""
    file = io.BytesIO()
    Image.new("L", (8000, 7999)).save(file, "PNG")
    return [_about(_part("image", _data_url(file.getvalue())))]


def bombs() -> list[bytes]:
    """Small files whose headers claim much, of every kind."""
    kinds = {"pictures": "image", "videos": "video", "sounds": "audio"}
    return [_about(_part(kinds[group], _data_url(data))) for group in kinds for data in bombs_of(group).values()]


def _data_url(data: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


def made(kinds: tuple[str, ...], host: SlowHost, half_character: Callable[[], int]) -> dict[str, list[bytes]]:
    """The bodies of those among `kinds` that send any. `half_character()`: a token that is no whole character."""
    of_kind: dict[str, Callable[[], list[bytes]]] = {
        each.__name__: each for each in (ids, grammars, nesting, names, long_texts, pictures, bombs)
    }
    of_kind["media_hosts"] = lambda: media_hosts(host)
    of_kind["answers"] = lambda: answers(half_character())
    return {kind: of_kind[kind]() for kind in kinds if kind in of_kind}
