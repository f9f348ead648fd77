"""Which requests: a seeded mix of texts and media, each request a chat completion's JSON body in ready-made pieces.

    text=0.4,640x480=0.3,360p@5s=0.3     shares of texts and of media, see `media`; the shares are normalised
    640x480                              a share that is not said is 1
    4*1280x720                           so many in each request

Request n of a seed is the same for every server. Media travel in `data:` URLs, or as URLs of a `host` on loopback.
"""

import base64
import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.kit.load.media import MIME_TYPES, MediaKind, MediaSpec, distinct, make_pool

MIXES = {
    "mixed": "text=0.4,640x480=0.3,360p@5s=0.3",
    "text": "text=1",
    "pictures": "640x480=1",
    "4 x 720p": "4*1280x720=1",
    "360p": "360p@5s=1",
    "1080p": "1080p@5s=1",
    "sounds": "sound@5s=1",
}
_PART_TYPES: dict[str, str] = {"image": "image_url", "video": "video_url", "audio": "audio_url"}
_QUESTIONS: dict[str, Sequence[str]] = {
    "image": ("What is in the picture?", "Which colours do you see?", "Describe this picture in a few words."),
    "video": ("What happens in the video?", "Which way does it move?", "Describe this clip in a few words."),
    "audio": ("What do you hear?", "How many tones are there?", "Describe this sound in a few words."),
}
_WORDS = (
    "a",
    "the",
    "red",
    "blue",
    "circle",
    "square",
    "moves",
    "left",
    "right",
    "slowly",
    "tone",
    "what",
    "is",
    "and",
)

UrlMaker = Callable[[MediaKind, bytes], str]
"""Where a file can be fetched: `host.MediaHost.add`."""


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """What `Workload` is made of; crosses to the generator's process."""

    mix: str = MIXES["mixed"]
    """A name of `MIXES`, or shares as above."""
    seed: int = 0
    max_tokens: int = 16
    exact_length: bool = True
    """Ask for exactly `max_tokens` (`ignore_eos`), so that all servers do the same work. Not in OpenAI's own API."""
    transport: Literal["data", "url"] = "data"
    distinct_media: bool = True
    """No file is sent twice; else the few files of the pools again and again, which caches may answer."""
    text_words: int = 20
    options: tuple[tuple[str, Any], ...] = ()
    """More fields of each request's body."""

    def shares(self) -> dict[str, float]:
        """`{"text" or a media spec: share}`, adding up to 1. Raises ValueError for a mix that can't be read."""
        parts = (part.strip().partition("=") for part in MIXES.get(self.mix, self.mix).split(","))
        shares = {name: float(share) if sign else 1.0 for name, sign, share in parts}
        for name in shares:
            if name != "text":
                _media(name)
        total = sum(shares.values())
        return {name: share / total for name, share in shares.items()}


@dataclass(frozen=True, slots=True)
class Request:
    kind: str
    """`text`, `image`, `video`, `audio`."""
    body: bytes


class Workload:
    """An endless sequence of requests to one model. Making one media request takes well below a millisecond."""

    def __init__(self, spec: WorkloadSpec, model: str, url_maker: UrlMaker | None = None, first: int = 0) -> None:
        """`first`: the number of the first request, so that a later run does not repeat an earlier one's media.

        Makes the media's pools, which takes a while the first time. `url_maker` is needed for `transport="url"`.
        """
        self._spec, self._url_maker = spec, url_maker
        self._shares = spec.shares()
        self._numbers = itertools.count(first)
        self._random = random.Random(f"workload {spec.seed} {first}")
        self._media = {name: _media(name) for name in self._shares if name != "text"}
        self._pools = {name: make_pool(media, spec.seed) for name, (_, media) in self._media.items()}
        fixed: dict[str, Any] = {"model": model, "max_tokens": spec.max_tokens, "temperature": 0}
        fixed |= {"stream": True, "stream_options": {"include_usage": True}, **dict(spec.options)}
        if spec.exact_length:
            fixed["ignore_eos"] = True
        self._head = json.dumps(fixed)[:-1].encode()

    def next(self) -> Request:
        number = next(self._numbers)
        name = self._random.choices(list(self._shares), list(self._shares.values()))[0]
        if name == "text":
            words = " ".join(self._random.choice(_WORDS) for _ in range(self._spec.text_words))
            return Request("text", self._body(f"{words} {number}?", "text", []))
        count, media = self._media[name]
        urls = [self._url(media.kind, self._file(name, number * count + place)) for place in range(count)]
        return Request(media.kind, self._body(self._random.choice(_QUESTIONS[media.kind]), media.kind, urls))

    def _file(self, name: str, number: int) -> bytes:
        data = self._random.choice(self._pools[name])
        return distinct(self._media[name][1].kind, data, number) if self._spec.distinct_media else data

    def _url(self, kind: MediaKind, data: bytes) -> bytes:
        if self._spec.transport == "data":
            return b"data:" + MIME_TYPES[kind].encode() + b";base64," + base64.b64encode(data)
        assert self._url_maker is not None, "a workload of URLs needs a media host"
        return self._url_maker(kind, data).encode()

    def _body(self, question: str, kind: str, urls: Sequence[bytes]) -> bytes:
        pieces = [self._head, b', "messages": [{"role": "user", "content": [']
        for url in urls:
            part = _PART_TYPES[kind].encode()
            pieces += [b'{"type": "', part, b'", "', part, b'": {"url": "', url, b'"}}, ']
        return b"".join([*pieces, json.dumps({"type": "text", "text": question}).encode(), b"]}]}"])


def _media(name: str) -> tuple[int, MediaSpec]:
    """How many of what; ValueError for anything else."""
    count, times, spec = name.rpartition("*")
    return (int(count) if times else 1), MediaSpec.parse(spec)
