"""Reading bodies: what is cut out comes back whole, limits hold, and nothing else changes."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import BadRequest, TooLarge
from deployments.ingress.http.body import (
    CUT_CHARS,
    DATA_PREFIX,
    MAX_DATA_STRINGS,
    MAX_VALUES,
    Body,
    BodyScanner,
    read_body,
)
from deployments.ingress.http.media_text import MediaText

LIMIT = 10**8
LONG = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 32).decode()


def scan(raw: bytes, sizes: list[int] | None = None) -> Body:
    scanner = BodyScanner(LIMIT, LIMIT)
    sizes, position = list(sizes or [len(raw)]), 0
    while position < len(raw):
        size = sizes[0] if len(sizes) == 1 else sizes.pop(0)
        scanner.feed(raw[position : position + size])
        position += size
    return scanner.finish()


def restored(body: Body) -> Any:
    """The document with what was cut out put back."""
    for text in body.cuts.values():
        assert isinstance(text, MediaText)
        assert text.digest == hashlib.sha256(bytes(text)).hexdigest()

    def put_back(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put_back(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [put_back(inner) for inner in value]
        return body.cuts[value].decode() if isinstance(value, str) and value in body.cuts else value

    return put_back(body.document)


texts = st.text(st.sampled_from('data:"\\/,x é\n'), max_size=30)
media = st.integers(0, CUT_CHARS * 2).map(lambda size: "data:image/png;base64," + "Ab+/" * (size // 4))
keys = st.sampled_from(["url", "text", "content", "data", 'da"ta', "stop", "data:"])
documents = st.recursive(
    st.none() | st.integers() | texts | media,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
sizes = st.lists(st.integers(1, 5000), min_size=1, max_size=20)


@given(documents, sizes, st.booleans())
def test_any_document_in_any_pieces_is_what_a_json_parser_makes_of_it(
    document: Any, sizes: list[int], ascii_only: bool
) -> None:
    raw = json.dumps(document, ensure_ascii=ascii_only).encode()
    assert restored(scan(raw, sizes)) == document


def test_long_media_never_meet_the_parser_and_texts_do() -> None:
    document = {"a": [{"url": LONG}, {"text": LONG}, {"content": LONG}, [LONG], {"url": "data:,short"}]}
    body = scan(json.dumps(document).encode())
    assert [bytes(cut).decode() for cut in body.cuts.values()] == [LONG, LONG]
    assert body.document["a"][1:3] == [{"text": LONG}, {"content": LONG}]
    assert body.document["a"][4] == {"url": "data:,short"}


def test_the_scheme_of_a_data_url_may_be_in_capitals() -> None:
    loud = LONG.replace("data:", "DATA:")
    body = scan(json.dumps({"url": loud, "data": loud}).encode())
    assert [bytes(cut).decode() for cut in body.cuts.values()] == [loud, loud]


def test_bare_base64_of_input_audio_becomes_a_data_url() -> None:
    sound = "QUJD" * CUT_CHARS
    body = scan(json.dumps({"input_audio": {"data": sound, "format": "wav"}}).encode())
    assert [bytes(cut) for cut in body.cuts.values()] == [DATA_PREFIX + sound.encode()]


@pytest.mark.parametrize("pieces", [[1], [7], [10**6]])
@pytest.mark.parametrize(
    ("escaped", "plain"),
    [(r"\/", "/"), (r"\u002B", "+"), (r"\u002b", "+"), (r"\u003d", "="), (r"\n", "\n"), (r"\t", "\t")],
)
def test_escapes_of_other_json_writers_are_undone(pieces: list[int], escaped: str, plain: str) -> None:
    raw = '{"url": "data:image/png;base64,' + ("A" * 99 + escaped) * 100 + '"}'
    (cut,) = scan(raw.encode(), pieces).cuts.values()
    assert cut.decode() == "data:image/png;base64," + ("A" * 99 + plain) * 100


def test_escapes_that_no_data_url_needs_are_refused() -> None:
    with pytest.raises(BadRequest, match="escaped"):
        scan(b'{"url": "data:image/png;base64,' + rb"\b" * CUT_CHARS + b'"}')


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"a": }', b'{"a": "data:' + b"A" * CUT_CHARS, b"\xff\xfe", b'{"a": "\xff"}', b"[" * 5000]
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="not valid JSON"):
        scan(raw)


def test_a_client_cannot_name_a_cut_itself() -> None:
    first, second = (scan(json.dumps({"url": LONG}).encode()) for _ in range(2))
    assert first.document != second.document


async def test_a_body_is_refused_at_the_first_byte_too_many() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield b"A" * 1000

    with pytest.raises(TooLarge, match="5000"):
        await read_body(endless(), BodyScanner(5000, LIMIT))
    assert sent == 6000


async def test_text_has_a_limit_of_its_own() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield json.dumps({"url": LONG, "text": "x" * 5000}).encode()

    assert (await read_body(body(), BodyScanner(LIMIT, 6000))).size_bytes > 6000
    with pytest.raises(TooLarge, match="without its media"):
        await read_body(body(), BodyScanner(LIMIT, 5000))


async def read(raw: bytes) -> Body:
    async def body() -> AsyncIterator[bytes]:
        yield raw

    return await read_body(body(), BodyScanner(LIMIT, LIMIT))


@pytest.mark.parametrize("value", [b"[]", b"1", b'"a"', b'"\\""', b'{"a":1}', b"[[],[]]"])
async def test_more_values_than_can_be_parsed_in_one_go_are_refused(value: bytes) -> None:
    with pytest.raises(BadRequest, match="values"):
        await read(b"[" + b",".join([value] * (MAX_VALUES + 1)) + b"]")
    assert len((await read(b"[" + b",".join([value] * 2000) + b"]")).document) == 2000


async def test_signs_inside_strings_are_no_values() -> None:
    table = 'a,b,"c":[1]{2}\n' * MAX_VALUES
    assert (await read(json.dumps({"text": [table, table]}).encode())).document == {"text": [table, table]}


async def test_very_many_short_data_strings_are_refused() -> None:
    with pytest.raises(BadRequest, match="data:"):
        await read(b"[" + b'"data:",' * (MAX_DATA_STRINGS + 1) + b"1]")


async def test_others_get_their_turn_while_a_large_body_is_read() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def body() -> AsyncIterator[bytes]:
        yield b'{"url": "data:video/mp4;base64,' + b"A" * 8_000_000 + b'"}'

    other = asyncio.create_task(others())
    await read_body(body(), BodyScanner(LIMIT, LIMIT))
    other.cancel()
    assert turns >= 8_000_000 // (512 * 1024)


def test_embeddings_are_cut_out_of_the_body_before_it_is_parsed() -> None:
    body = scan(json.dumps({"image_embeds": "QUJD" * 2000, "width": 3}).encode())
    assert body.cuts[body.document["image_embeds"]] == b"data:;base64," + b"QUJD" * 2000
