"""`data:` URLs (RFC 2397) with base64, read as forgivingly as browsers do (WHATWG's "forgiving-base64 decode"): padding
may be missing, white space and percent-escapes may stand anywhere, and the URL-safe alphabet is one, too.

Pure functions on arrays; the size is known before anything is decoded, and nothing is copied but what is decoded.
"""

import binascii
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import numpy as np

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia
from deployments.fetcher.blob import Bytes

MAX_HEAD_CHARS = 1024
_SLICE_CHARS = 65536
"""binascii holds the GIL: at a millisecond or less a slice, the event loop beside this thread does not feel it."""

_TOKEN = r"[A-Za-z0-9!#$&^_.+*%'`~{}|-]+"
_PARAMETER = rf"""{_TOKEN}=(?:{_TOKEN}|"[^",]*")"""
_HEAD = re.compile(rf"[dD][aA][tT][aA]:(?:{_TOKEN}/{_TOKEN})?(?:;{_PARAMETER})*(?P<base64>; *[bB][aA][sS][eE]64)?")
_SPACES = b" \t\n\f\r"
_ALPHABET = bytes.maketrans(b"-_", b"+/")
_COUNTED_CHARS = 2**20
_HELD_CHARS = 8
"""Of what has been read, kept until more has come: padding, or an escape, may be among it."""
_LONGEST_LINE = 4096
"""Characters in which those who break lines at all have broken one."""


@dataclass(frozen=True, slots=True)
class DataUrl:
    """A checked `data:` URL whose payload is not yet decoded."""

    base64: Bytes
    """(characters,), a view of the URL's text."""
    size_bytes: int
    """Of the payload once decoded; at most, where white space or escapes are strewn in."""


def parse_data_url(text: Bytes) -> DataUrl:
    """Split a URL's ASCII text, uint8 (characters,). Raises `BadMedia` saying what is malformed."""
    head = text[:MAX_HEAD_CHARS].tobytes().split(b",", 1)
    if len(head) == 1:
        raise BadMedia("has a malformed data: URL: there is no comma after its media type")
    match = _HEAD.fullmatch(head[0].decode("latin-1"))
    if match is None:
        raise BadMedia("has a malformed data: URL: expected data:[<type>/<subtype>][;<name>=<value>...];base64,<data>")
    if match["base64"] is None:
        raise BadMedia("has a data: URL without ';base64': only base64 payloads are accepted")
    base64 = text[len(head[0]) + 1 :]
    if len(base64) == 0:
        raise BadMedia("is empty: its data: URL has no payload")
    return DataUrl(base64, _size_bytes(base64))


def _size_bytes(base64: Bytes) -> int:
    tail = base64[-64:].tobytes().rstrip(_SPACES)
    padding = len(tail) - len(tail.removesuffix(b"=").removesuffix(b"="))
    if np.isin(base64[:_LONGEST_LINE], list(_SPACES)).any():
        pieces = range(0, len(base64), _COUNTED_CHARS)
        spaces = sum(int(np.count_nonzero(base64[at : at + _COUNTED_CHARS] <= ord(" "))) for at in pieces)
    else:
        spaces = len(base64[-64:]) - len(tail)
    return max(0, len(base64) - spaces - padding) * 3 // 4


def decode_data_url(url: DataUrl, data: Bytes, deadline: Deadline) -> Bytes:
    """The payload, at the beginning of `data`, uint8 (url.size_bytes,). Blocking; raises `BadMedia` and what
    `deadline.check()` raises.
    """
    source, target = url.base64.data, data.data
    chars, end = b"", 0
    for start in range(0, len(source), _SLICE_CHARS):
        deadline.check()
        raw = source[start : start + _SLICE_CHARS]
        piece = None if chars or start + _SLICE_CHARS >= len(source) else _plain(raw)
        if piece is None:
            chars += bytes(raw).translate(_ALPHABET, _SPACES)
            if b"%" in chars:
                chars = _unescaped(chars)
            whole = max(0, len(chars) - _HELD_CHARS) // 4 * 4
            if b"=" in chars[:whole]:
                raise BadMedia("has a data: URL whose base64 is malformed: padding in the middle")
            piece, chars = _decoded(chars[:whole]), chars[whole:]
        target[end : end + len(piece)] = piece
        end += len(piece)
    piece = _decoded(_padded(chars))
    target[end : end + len(piece)] = piece
    end += len(piece)
    if end == 0:
        raise BadMedia("is empty: its data: URL has no payload")
    return data if end == len(data) else data[:end]


def _plain(raw: memoryview) -> bytes | None:
    """What usual writers make, decoded as it lies; None when there is anything but the plain alphabet."""
    try:
        piece = binascii.a2b_base64(raw, strict_mode=True)
    except binascii.Error:
        return None
    return piece if len(piece) == len(raw) // 4 * 3 else None


def _decoded(chars: bytes) -> bytes:
    try:
        return binascii.a2b_base64(chars, strict_mode=True)
    except binascii.Error as error:
        raise BadMedia(f"has a data: URL whose base64 is malformed: {error}") from None


def _padded(chars: bytes) -> bytes:
    """The last characters with their padding, whether they had it or not."""
    bare = chars if len(chars) % 4 else chars.removesuffix(b"=").removesuffix(b"=")
    if b"=" in bare or len(bare) % 4 == 1:
        raise BadMedia("has a data: URL whose base64 is malformed: wrong padding, or characters are missing")
    return bare + b"=" * (-len(bare) % 4)


def _unescaped(chars: bytes) -> bytes:
    """Percent-escapes undone, but for one that the end may have cut."""
    cut = chars.rfind(b"%", -2)
    whole = len(chars) if cut < 0 else cut
    return unquote_to_bytes(chars[:whole]).translate(_ALPHABET, _SPACES) + chars[whole:]
