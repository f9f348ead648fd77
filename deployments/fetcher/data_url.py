"""`data:` URLs (RFC 2397) with base64. Pure functions on arrays; the size is known before anything is decoded."""

import binascii
import re
from dataclasses import dataclass

import numpy as np

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia
from deployments.fetcher.blob import Bytes

MAX_HEAD_CHARS = 1024
_SLICE_CHARS = 65536
"""binascii holds the GIL: at a millisecond or less a slice, the event loop beside this thread does not feel it."""

_TOKEN = r"[A-Za-z0-9!#$&^_.+*%'`~{}|-]+"
_PARAMETER = rf"""{_TOKEN}=(?:{_TOKEN}|"[^",]*")"""
_HEAD = re.compile(rf"[dD][aA][tT][aA]:(?:{_TOKEN}/{_TOKEN})?(?:;{_PARAMETER})*(?P<base64>;base64)?")


@dataclass(frozen=True, slots=True)
class DataUrl:
    """A checked `data:` URL whose payload is not yet decoded."""

    base64: Bytes
    """(characters,), a view of the URL's text."""
    size_bytes: int
    """Of the payload once decoded."""


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
    if len(base64) % 4:
        raise BadMedia("has a data: URL whose base64 is malformed: its length is not a multiple of 4")
    padding = int(np.count_nonzero(base64[-2:] == ord("=")))
    return DataUrl(base64, len(base64) // 4 * 3 - padding)


def decode_data_url(url: DataUrl, deadline: Deadline) -> Bytes:
    """The payload, a new array (size_bytes,) uint8. Blocking; raises `BadMedia` and what `deadline.check()` raises."""
    data = np.empty(url.size_bytes, np.uint8)
    source, target = url.base64.data, data.data
    end = 0
    for start in range(0, len(source), _SLICE_CHARS):
        deadline.check()
        try:
            piece = binascii.a2b_base64(source[start : start + _SLICE_CHARS], strict_mode=True)
        except binascii.Error as error:
            raise BadMedia(f"has a data: URL whose base64 is malformed: {error}") from None
        last = start + _SLICE_CHARS >= len(source)
        if (not last and len(piece) != _SLICE_CHARS // 4 * 3) or end + len(piece) > len(target):
            raise BadMedia("has a data: URL whose base64 is malformed: padding in the middle")
        target[end : end + len(piece)] = piece
        end += len(piece)
    if end != len(target):
        raise BadMedia("has a data: URL whose base64 is malformed: wrong padding")
    return data
