"""What a header says of a picture's size, without decoding any of it."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployments.media.picture_size import declared_pixels
from tests.support.media_files import make_picture

FILES = {
    "jpeg": ("JPEG", {}),
    "png": ("PNG", {}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "webp": ("WEBP", {}),
    "avif": ("AVIF", {}),
}
OTHERS = [
    ("jpeg", "JPEG", {"progressive": True, "exif": b"Exif\0\0" + bytes(60_000), "comment": b"long" * 10_000}),
    ("webp", "WEBP", {"lossless": True}),
    ("webp", "WEBP", {"exif": b"Exif\0\0" + bytes(100)}),
]


def encoded(format: str, options: dict[str, object], mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (61, 43), 0).save(file, format, **options)
    return file.getvalue()


def pixels(data: bytes, container: str) -> int:
    return declared_pixels(np.frombuffer(data, np.uint8), container)


@pytest.mark.parametrize(("container", "format", "options"), [(name, *said) for name, said in FILES.items()] + OTHERS)
def test_each_format_tells_its_size_and_cut_before_it_tells_none(
    container: str, format: str, options: dict[str, object]
) -> None:
    data = encoded(format, options)
    assert pixels(data, container) == 61 * 43
    assert [pixels(data[:size], container) for size in range(8)] == [0] * 8


def test_either_byte_order_is_read() -> None:
    data = encoded("TIFF", {}, "I;16B")
    assert data[:2] == b"MM"
    assert pixels(data, "tiff") == 61 * 43


@given(st.sampled_from(sorted(FILES)), st.binary(max_size=200), st.integers(0, 40))
def test_no_bytes_are_an_error(container: str, tail: bytes, kept: int) -> None:
    head = encoded(*FILES[container])[:kept]
    assert pixels(head + tail, container) >= 0


def test_what_is_no_picture_has_no_pixels() -> None:
    assert pixels(make_picture(), "wav") == 0
