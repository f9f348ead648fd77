"""Request bodies that are almost right: structure, types, numbers, texts, keys and media changed where it hurts."""

import base64
import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

Json = Any
MAX_DEPTH = 20_000

_URLS = (
    "https://media.example/a.png",
    "http://127.0.0.1:1/latest/meta-data",
    "http://[::ffff:169.254.169.254]/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://media.example\\@127.0.0.1/",
    "http://user:secret@media.example:99999/",
    "file:///etc/passwd",
    "file://localhost/proc/self/environ",
    "FILE:%2e%2e/%2e%2e/etc/passwd",
    "gopher://127.0.0.1:70/",
    "//127.0.0.1/x",
    "data:",
    "data:,",
    "data:image/png;base64",
    "data:image/png;base64,",
    "data:image/png;base64,####",
    "data:image/png;base64,AAAA",
    "data:text/html,<script>",
    'data:image/png;charset=utf-8;name="a,b";base64,iVBORw0KGgo=',
    "DATA:IMAGE/PNG;BASE64,iVBORw0KGgo=",
    "data:cut/00000000000000000000000000000000/0",
    "http://" + "a" * 300 + ".example/",
    "http://media.example/" + "%00" * 3,
    "http://xn--media-\u2603.example/",
    "http://media.example/\u202e\u0000\ud7ff",
)
_ODD: tuple[Json, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, "", "x", "1", "true",
    "\0", "\u2028", "\U0001f600" * 50, "\u202e", "a" * 3000, [], {}, [[]], [None], [{}], {"": ""}, {"type": None},
    {"a": {"a": {}}}, {"__proto__": 1}, {"type": "text"}, {"type": ["text"]}, {"url": None}, {"url": []}, *_URLS,
)  # fmt: skip
_RAW = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"0" * 40, b"1" * 400, b"1." + b"9" * 400, b"01", b"+1",
    b".5",
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff\xfe"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b"'x'", b"undefined", b"/**/1",
    b'"\\u0000"', b'"\\x41"', b'"unclosed', b"[1,]", b'{"a":1,}', b'{a:1}', b"{} {}", b"\xef\xbb\xbf1", b"",
)  # fmt: skip


def mutated_body(files: Mapping[str, bytes], seed: str) -> bytes:
    """A request's body after up to four mutations. `files`: media to be sent in it."""
    chance = random.Random(seed)
    document = chance.choice(_documents(files, chance))
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        document = _changed(document, chance)
    raw = json.dumps(document, ensure_ascii=chance.random() < 0.5, indent=chance.choice((None, None, 2))).encode(
        "utf-8", "surrogatepass"
    )
    for _ in range(chance.choice((0, 0, 1, 1, 2))):
        raw = chance.choice((_raw_value, _duplicated_key, _deep, _broken, _broken, _escaped))(raw, chance)
    return raw


def _attacks(chance: random.Random) -> list[Json]:
    """What one small request may ask for to cost everybody else: ids, grammars, nesting, numbers, answers."""

    def schema(of: Json) -> Json:
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": of}}}

    deep: Json = {"type": "integer"}
    for _ in range(chance.choice((60, 130, 300))):
        deep = {"type": "array", "items": deep}
    optional = {f"p{i}": {"type": "string"} for i in range(chance.choice((40, 400)))}
    return [
        {"logit_bias": {str(chance.choice((-1, 512, 10**9 - 1, 2**31))): 100}},
        {"stop_token_ids": [chance.choice((512, 2**31 - 1, 2**31))], "min_tokens": 2},
        schema({"type": "integer", "multipleOf": chance.choice((7, 997, 15_485_863))}),
        schema({"const": "ab" * chance.choice((10, 10_000, 100_000))}) | {"min_tokens": 3},
        schema({"type": "object", "properties": optional}),
        schema({"const": "e\u0301"}),
        schema(deep),
        {"mm_processor_kwargs": {"min_pixels": deep}},
        {"sluice": chance.choice(({"cache": False}, {"cache": deep}, deep))},
        {"temperature": 1e-38, "top_p": 1e-38, "repetition_penalty": 1e-38},
        {"n": 8, "logprobs": True, "top_logprobs": 20, "max_tokens": 16_384, "ignore_eos": True},
    ]


def _documents(files: Mapping[str, bytes], chance: random.Random) -> list[Json]:
    def data(kind: str) -> str:
        wording = chance.choice((";base64", ";base64", ";BASE64", ";charset=utf-8;base64"))
        return f"data:{kind}/x{wording}," + _base64(chance.choice(list(files.values())), chance)

    def user(*parts: Json) -> list[Json]:
        return [{"role": "user", "content": [*parts, {"type": "text", "text": "what is this?"}]}]

    url = chance.choice(_URLS)
    frames = {"fps": 2.0, "max_frames": 8, "start_s": 0.0, "end_s": 1.5}
    options = {
        "stop": ["\n", "x"], "n": 2, "seed": 7, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "logprobs": True,
        "top_logprobs": 3, "logit_bias": {"5": -1.5}, "stop_token_ids": [1], "min_tokens": 1, "user": "someone",
    }  # fmt: skip
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": {}}}}
    head = {"model": "demo", "max_tokens": 3}
    pictures = [{"type": "image_url", "image_url": {"url": data("image"), "detail": "low"}} for _ in range(2)]
    hello = {"messages": [{"role": "user", "content": "hi"}]}
    return [
        *(head | hello | attack for attack in _attacks(chance)),
        head | {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]} | options,
        head | {"messages": user(*pictures), "stream": True, "stream_options": {"include_usage": True}},
        head | {"messages": user({"type": "image_url", "image_url": url}, {"type": "input_image", "image_url": url})},
        head | {"messages": user({"type": "video_url", "video_url": {"url": data("video"), **frames}}), "fps": 4},
        head | {"messages": user({"type": "video", "video": [data("image"), url, data("image")], "fps": 1})},
        head | {"messages": user({"type": "input_audio", "input_audio": {"data": "UklGRg==" * 700, "format": "wav"}})},
        head | {"messages": user({"type": "audio_url", "audio_url": {"url": data("audio")}}), "use_audio_in_video": 1},
        head | {"messages": user(), "mm_processor_kwargs": {"max_pixels": 5000, "fps": 3}, "response_format": schema},
        head | {"messages": user(*pictures) * 3 + [{"role": "assistant", "content": None}], "modalities": ["text"]},
    ]  # fmt: skip


def _base64(data: bytes, chance: random.Random) -> str:
    """As some tool writes it."""
    writers: tuple[Callable[[bytes], bytes], ...] = (
        base64.b64encode,
        base64.encodebytes,
        base64.urlsafe_b64encode,
        lambda given: base64.b64encode(given).rstrip(b"="),
        lambda given: base64.b64encode(given).replace(b"+", b"%2B") + b"\r\n",
    )
    return chance.choice(writers)(data).decode()


def _changed(document: Json, chance: random.Random) -> Json:
    """One place of it replaced, removed, repeated, renamed or wrapped."""
    path = chance.choice(_paths(document))
    value = document
    for step in path:
        value = value[step]
    if not path:
        return chance.choice((value, value, [value], chance.choice(_ODD)))
    new = chance.choice((chance.choice(_ODD), chance.choice(_ODD), [value], {"url": value}, [value] * 40, str(value)))
    return _replaced(document, path, new, chance.choice(("put", "put", "put", "drop", "rename", "add")), chance)


def _paths(value: Json, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, child in inner for path in _paths(child, (*here, key)))]


def _replaced(value: Json, path: tuple[Any, ...], new: Json, how: str, chance: random.Random) -> Json:
    copy, step = value.copy(), path[0]
    if len(path) > 1:
        copy[step] = _replaced(value[step], path[1:], new, how, chance)
    elif how == "put":
        copy[step] = new
    elif how == "drop":
        del copy[step]
    elif isinstance(copy, dict):
        name = chance.choice(
            ("", "\0", str(step).upper(), f"{step} ", "data", "__class__", "x" * 300, "audio", "tools")
        )
        copy[name] = copy.pop(step) if how == "rename" else new
    else:
        copy.insert(chance.randrange(len(copy) + 1), new)
    return copy


def _raw_value(raw: bytes, chance: random.Random) -> bytes:
    """What no JSON writer would write, in the place of a value."""
    values = list(re.finditer(rb'(?<=: )(?:"(?:[^"\\]|\\.){0,200}"|[\d.e+-]+|true|false|null|\[\]|\{\})', raw))
    if not values:
        return raw + chance.choice(_RAW)
    value = chance.choice(values)
    return raw[: value.start()] + chance.choice(_RAW) + raw[value.end() :]


def _duplicated_key(raw: bytes, chance: random.Random) -> bytes:
    key = chance.choice((b'"messages"', b'"model"', b'"stream"', b'"max_tokens"', b'"data"', b'"n"', b'"temperature"'))
    return raw.replace(b"{", b"{" + key + b": " + chance.choice((b"null", b"[]", b'"demo"', b"1e99", b"{}")) + b", ", 1)


def _deep(raw: bytes, chance: random.Random) -> bytes:
    depth = chance.choice((100, 1023, 1025, MAX_DEPTH))
    nested = chance.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth))
    return raw[:-1] + b', "' + chance.choice((b"x", b"metadata", b"messages", b"tools")) + b'": ' + nested + b"}"


def _broken(raw: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, dropped or put in."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(raw) + 1)
        put = chance.choice((b"", b'"', b"\\", b"{", b"]", b"\xff", b"\0", b"0", b"e", b'"data:', b'"data":"', b"\r\n"))
        raw = raw[:at] + put + raw[at + chance.randint(0, 3) :]
    return raw


def _escaped(raw: bytes, chance: random.Random) -> bytes:
    """Base64 as some JSON writers escape it, and as none should."""
    old, new = chance.choice(
        ((b"/", b"\\/"), (b"+", b"\\u002b"), (b"=", b"\\u003d"), (b"A", b"\\u0041"), (b"A", b"\\n"))
    )
    return raw.replace(old, new)
