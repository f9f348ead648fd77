"""HTTP ranges (RFC 9110, 14): which files may be read by them, and whether an answer is the range that was asked for.

One file is read in many answers. What holds them together is its version: a strong ETag, or the date of its last
change. An answer about another version is an error; one that is no range at all tells that the host has none.
"""

import re

import aiohttp
from yarl import URL

from deployments.config import MediaConfig
from deployments.core.least_rate import LeastRate
from deployments.errors import MediaHostError
from deployments.fetcher.arrival import next_piece
from deployments.fetcher.blob import Bytes
from deployments.fetcher.direct import Growing, comes_directly, receive_directly
from deployments.fetcher.transient import TransientError
from deployments.media.sniff import HEAD_BYTES, sniff
from deployments.types import RemoteFile

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_IN_PARTS = frozenset({"mp4"})
"""Containers whose index tells where each frame is."""


class RangesRefused(Exception):
    """The host does not keep to ranges; never leaves this room."""


def remote_file(response: aiohttp.ClientResponse, url: URL, config: MediaConfig) -> RemoteFile | None:
    """The file of a whole answer's headers if it is large and its host offers ranges of a version that can be named."""
    size, least = response.content_length, config.sparse_from_bytes
    if response.status != 200 or least is None or size is None or not least <= size <= config.max_sparse_video_bytes:
        return None
    if response.headers.get("Accept-Ranges", "").strip().lower() != "bytes" or "Content-Encoding" in response.headers:
        return None
    etag = response.headers.get("ETag", "")
    version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    return RemoteFile(str(url), version, size, config.max_video_bytes) if version else None


def is_readable_in_parts(begun: bytes) -> bool:
    """By the first bytes of a file."""
    return sniff(begun[:HEAD_BYTES]).container in _IN_PARTS


def range_headers(file: RemoteFile, start: int, length: int) -> dict[str, str]:
    return {"Range": f"bytes={start}-{start + length - 1}", "If-Range": file.version}


def check_range(response: aiohttp.ClientResponse, file: RemoteFile, start: int, length: int) -> None:
    """Raise `MediaHostError` when `response` speaks of another version, `RangesRefused` when it is not that range."""
    told = response.headers.get("ETag" if file.version.startswith('"') else "Last-Modified", file.version)
    if response.status in (412, 416) or told != file.version:
        raise _changed(response)
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if response.status != 206 or found is None or "Content-Encoding" in response.headers:
        raise RangesRefused
    first, last, size = map(int, found.groups())
    if size != file.size_bytes:
        raise _changed(response)
    if (first, last) != (start, start + length - 1):
        raise RangesRefused


async def receive_range(response: aiohttp.ClientResponse, into: Bytes, rate: LeastRate, grow: Growing) -> None:
    """The body of a range, to its place. Raises `MediaHostError` for a host that is too slow or says too much."""
    if comes_directly(response, len(into), 0):
        await receive_directly(response, into, 0, rate, grow, lambda _: None)
        return
    view, at = into.data, 0
    while piece := await next_piece(response, rate):
        if at + len(piece) > len(into):
            raise MediaHostError(f"could not be fetched: {response.url.host} sent more than it was asked for")
        await grow(len(piece))
        view[at : at + len(piece)] = piece
        at += len(piece)
    if at < len(into):
        raise TransientError(f"could not be fetched: {response.url.host} broke the connection off")


def _changed(response: aiohttp.ClientResponse) -> MediaHostError:
    return MediaHostError(f"could not be fetched: the file at {response.url.host} changed while it was read")
