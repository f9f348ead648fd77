import base64
import re
import threading
import tracemalloc
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, StageTimeout, TooLarge, WorkCancelled
from deployments.fetcher.data_url import decode_data_url, parse_data_url
from deployments.types import MediaItem, MediaKind
from tests.fetcher.conftest import fetching
from tests.support.media_files import make_picture

PICTURE = make_picture()


def as_array(text):
    array = np.frombuffer(text.encode(), np.uint8)
    assert not array.flags.writeable  # as it is mapped from shared memory
    return array


def decoded_of(url, deadline=None):
    return decode_data_url(url, np.empty(url.size_bytes, np.uint8), deadline or Deadline(60.0, "fetch"))


def decode(text):
    return decoded_of(parse_data_url(as_array(text))).tobytes()


def encode(data):
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "head",
    [
        "data:;base64",
        "data:image/png;base64",
        "DATA:image/png;base64",
        "data:image/png;BASE64",
        "data:image/png;Base64",
        "data:image/png; base64",
        "data:image/svg+xml;charset=utf-8;base64",
        'data:video/mp4;codecs="avc1.4d002a";base64',
        "data:video/mp4;name=a%20b.mp4;x=1;base64",
        "data:;charset=utf-8;base64",
        "data:application/vnd.ms-thing.v2;base64",
    ],
)
def test_media_types_and_parameters_are_accepted(head):
    assert decode(f"{head},{encode(b'hello')}") == b"hello"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64" + "x" * 2000 + ",aGVsbG8=", "no comma"),
        ("data:image/png,aGVsbG8=", "without ';base64'"),
        ("data:,hello", "without ';base64'"),
        ("data:text/plain;charset=utf-8,hello%20you", "without ';base64'"),
        ("data:image/png;base64;x=1,aGVsbG8=", "malformed"),
        ("data:image;base64,aGVsbG8=", "malformed"),
        ("data:/png;base64,aGVsbG8=", "malformed"),
        ("data:image/png;x;base64,aGVsbG8=", "malformed"),
        ("data:im\nage/png;base64,aGVsbG8=", "malformed"),
        ("image/png;base64,aGVsbG8=", "malformed"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,aGVs\naGVs\n!!", "malformed"),
        ("data:image/png;base64,aGVsbG8%3D==", "malformed"),
        ("data:image/png;base64,aGVsbG8%3", "malformed"),
        ("data:image/png;base64,aGVsb", "characters are missing"),
        ("data:image/png;base64, \n", "empty"),
        ("data:image/png;base64,aA==aGVs", "malformed"),
        ("data:image/png;base64,a===", "malformed"),
        ("data:image/png;base64,====", "malformed"),
        ("data:image/png;base64,=aaa", "malformed"),
        ("data:image/png;base64,aG=s", "malformed"),
        ("", "no comma"),
    ],
)
def test_what_is_malformed_is_refused_and_named(url, message):
    with pytest.raises(BadMedia, match=message):
        decode(url)


SLICE = 3 * 16384
"""Bytes that are decoded at a time."""


@pytest.mark.parametrize("size", [1, 2, 3, 4, SLICE - 1, SLICE, SLICE + 1, SLICE + 2, 2 * SLICE])
def test_the_size_is_known_before_and_every_payload_comes_back(size):
    data = np.random.default_rng(size).bytes(size)
    url = parse_data_url(as_array(f"data:;base64,{encode(data)}"))
    assert url.size_bytes == len(data)
    decoded = decoded_of(url)
    assert decoded.tobytes() == data
    assert (decoded.dtype, decoded.shape) == (np.uint8, (len(data),))


@given(st.text("aZ09+/=-_ \n%", min_size=1, max_size=24))
def test_whatever_decodes_is_what_browsers_decode(text):
    chars = unquote_to_bytes(text).translate(bytes.maketrans(b"-_", b"+/"), b" \t\n\f\r")
    bare = chars if len(chars) % 4 else chars.removesuffix(b"=").removesuffix(b"=")
    if bare and re.fullmatch(rb"[A-Za-z0-9+/]*", bare) and len(bare) % 4 != 1:
        assert decode(f"data:;base64,{text}") == base64.b64decode(bare + b"=" * (-len(bare) % 4))
    else:
        with pytest.raises(BadMedia):
            decode(f"data:;base64,{text}")


@pytest.mark.parametrize("size", [1, 2, 3, 5000, SLICE - 1, SLICE, SLICE + 1, 3 * SLICE + 2])
@pytest.mark.parametrize(
    "written",
    [
        lambda text: text.rstrip("="),
        lambda text: text + "\n",
        lambda text: "\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: "\r\n".join(text[at : at + 64] for at in range(0, len(text), 64)) + "\r\n",
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
        lambda text: text.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
        lambda text: text[:5000] + " " + text[5000:],
    ],
    ids=["unpadded", "newline", "MIME", "PEM", "URL-safe", "bare URL-safe", "percent", "a space"],
)
def test_base64_is_read_as_tools_write_it(written, size):
    data = np.random.default_rng(size).bytes(size)
    text = written(encode(data))
    url = parse_data_url(as_array(f"data:;base64,{text}"))
    assert decoded_of(url).tobytes() == data
    assert len(data) <= url.size_bytes <= len(text) * 3 // 4
    if "%" not in text and text[5000:5001] != " ":
        assert url.size_bytes == len(data)


def test_decoding_holds_nothing_but_what_it_gives():
    lines = "\n".join([encode(bytes(57))] * 200_000)
    url = parse_data_url(as_array(f"data:;base64,{lines}"))
    tracemalloc.start()
    decoded = decoded_of(url)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(decoded) == 57 * 200_000
    assert peak < len(decoded) + 2**20


@pytest.mark.parametrize("place", [100, 65536 - 2, 65536, 65536 + 2])
def test_padding_in_the_middle_of_a_long_payload_is_refused(place):
    text = list(encode(bytes(6 * 16384)))
    text[place : place + 2] = "=="
    with pytest.raises(BadMedia, match="malformed"):
        decode(f"data:;base64,{''.join(text)}")


def test_decoding_stops_when_nobody_wants_it_any_more():
    url = parse_data_url(as_array(f"data:;base64,{encode(bytes(9_000_000))}"))
    deadline = Deadline(60.0, "fetch")
    deadline.cancel()
    with pytest.raises(WorkCancelled):
        decoded_of(url, deadline)
    with pytest.raises(StageTimeout):
        decoded_of(url, Deadline(0.0, "fetch"))


async def test_a_data_url_becomes_bytes_with_metadata():
    item = MediaItem(MediaKind.IMAGE, "messages[0].content[0]", None)
    async with fetching() as fetcher:
        text = as_array(f"data:image/png;base64,{encode(PICTURE)}")
        fetched, data = await fetcher.fetch(item, Deadline(60.0, "request"), text)
    assert data.tobytes() == PICTURE
    assert (fetched.container, fetched.final_url) == ("jpeg", None)  # what the bytes are, not what the URL says


async def test_a_data_url_over_the_limit_is_refused_before_it_is_decoded():
    item = MediaItem(MediaKind.IMAGE, "messages[0].content[0]", None)
    async with fetching(max_image_bytes=8) as fetcher:
        with pytest.raises(TooLarge, match=r"messages\[0\]\.content\[0\] is too large: image items may have 8 bytes"):
            await fetcher.fetch(item, Deadline(60.0, "request"), as_array("data:;base64," + "?" * 16))


async def test_data_urls_are_decoded_off_the_event_loop():
    item = MediaItem(MediaKind.IMAGE, "messages[0].content[0]", None)
    threads = set()

    class Watched(np.ndarray):
        def __array_finalize__(self, _):
            threads.add(threading.current_thread())

        @property
        def data(self):
            threads.add(threading.current_thread())
            return super().data

    async with fetching() as fetcher:
        text = as_array(f"data:image/png;base64,{encode(PICTURE)}").view(Watched)
        threads.clear()
        parse_data_url(text)
        on_the_loop = set(threads)
        await fetcher.fetch(item, Deadline(60.0, "request"), text)
    assert on_the_loop == {threading.current_thread()}
    assert any(thread.name.startswith("fetch") for thread in threads)
