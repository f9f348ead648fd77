import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, StageTimeout, TooLarge, WorkCancelled
from deployments.media.pictures import decode_picture
from deployments.types import ResizeRule

LABEL = "messages[0].content[1]"
MAX_PIXELS = 4_000_000
RED, BLUE = (200, 30, 40), (20, 40, 190)


def encoded(image: Image.Image, format: str, **options: Any) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def decoded(data: NDArray[np.uint8], **options: Any) -> NDArray[np.uint8]:
    return decode_picture(data, LABEL, options.pop("max_pixels", MAX_PIXELS), Deadline(60, "test"), **options)


def two_halves(width: int = 64, height: int = 32) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def is_colour(pixel: NDArray[np.uint8], colour: tuple[int, int, int], within: int = 12) -> bool:
    return bool(np.all(np.abs(pixel.astype(int) - np.array(colour)) <= within))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_each_format_comes_out_as_rgb_rows(format: str) -> None:
    pixels = decoded(encoded(two_halves(), format))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (32, 64, 3)
    assert pixels.flags.c_contiguous
    assert is_colour(pixels[16, 8], RED)
    assert is_colour(pixels[16, 56], BLUE)


@pytest.mark.parametrize("format", ["PPM", "ICO", "TGA", "PCX", "JPEG2000"])
def test_formats_that_are_not_meant_are_refused(format: str) -> None:
    with pytest.raises(BadMedia, match="not a picture that can be read") as caught:
        decoded(encoded(two_halves(), format))
    assert caught.value.param == LABEL


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270), (8, Image.Transpose.ROTATE_90)],
)
def test_exif_rotation_is_applied(orientation: int, upright: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decoded(encoded(two_halves(), "PNG", exif=exif))
    assert np.array_equal(pixels, np.asarray(two_halves().transpose(upright)))


def with_alpha(mode: str) -> Image.Image:
    image = Image.new("RGBA", (8, 8), (*RED, 255))
    image.putpixel((0, 0), (*RED, 0))
    return image.convert(mode)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "TIFF"])
def test_transparent_parts_lie_on_white(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    pixels = decoded(encoded(with_alpha("RGBA"), format, **options))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert is_colour(pixels[4, 4], RED)


def test_half_transparent_grey_is_half_white() -> None:
    pixels = decoded(encoded(Image.new("LA", (4, 4), (0, 128)), "PNG"))
    assert tuple(pixels[0, 0]) == (127, 127, 127)


def test_palette_with_a_transparent_entry_lies_on_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((0, 0), 0)
    pixels = decoded(encoded(image, "PNG", transparency=0))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert tuple(pixels[1, 1]) == RED


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    pixels = decoded(encoded(Image.new("RGB", (9, 5), (255, 255, 255)).convert(mode), "TIFF"))
    assert pixels.shape == (5, 9, 3)
    assert pixels.min() == 255


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_gradient(format: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    pixels = decoded(encoded(Image.fromarray(ramp), format))
    assert np.array_equal(pixels[0, :, 1], np.arange(256))


def test_first_picture_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)]
    pixels = decoded(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert is_colour(pixels[0, 0], RED)


def test_floating_point_pixels_are_refused_by_name() -> None:
    with pytest.raises(BadMedia, match="8 and 16 bits"):
        decoded(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))


def png_bomb(width: int, height: int) -> NDArray[np.uint8]:
    """A PNG whose header promises far more than its few bytes hold."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return np.frombuffer(b"\x89PNG\r\n\x1a\n" + header + body, np.uint8)


def test_pixel_limit_is_judged_by_the_header() -> None:
    with pytest.raises(TooLarge, match=r"3000 x 2000 pixels, the limit is 4000000") as caught:
        decoded(png_bomb(3000, 2000))
    assert caught.value.param == LABEL


def test_bomb_beyond_every_limit_is_refused() -> None:
    with pytest.raises(TooLarge):
        decoded(png_bomb(60_000, 60_000))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_truncated_pictures_are_the_clients_fault(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encoded(noise, format)
    with pytest.raises(BadMedia) as caught:
        decoded(data[: len(data) // 2])
    assert caught.value.param == LABEL


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg></svg>", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_garbage_is_the_clients_fault(data: bytes) -> None:
    with pytest.raises(BadMedia):
        decoded(np.frombuffer(data, np.uint8))


@settings(max_examples=150, deadline=None)
@given(format=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]), data=st.data())
def test_damaged_bytes_give_pixels_or_a_client_error(format: str, data: st.DataObject) -> None:
    original = encoded(two_halves(), format).copy()
    for _ in range(data.draw(st.integers(1, 8))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decoded(original).ndim == 3
    except (BadMedia, TooLarge) as error:
        assert error.param == LABEL  # noqa: PT017


def smooth(height: int, width: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [127 + 100 * np.sin(rows / 90 + k) * np.cos(columns / 70 - k) for k in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


BUDGET = ResizeRule("frame", factor=28, min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 256)


def test_large_jpeg_is_decoded_at_a_fraction_of_its_size() -> None:
    pixels = decoded(encoded(smooth(1600, 2000), "JPEG"), resize=BUDGET)
    assert pixels.shape == (800, 1000, 3)


def test_fraction_is_taken_along_the_right_axes_of_a_rotated_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decoded(encoded(smooth(1600, 2000), "JPEG", exif=exif), resize=BUDGET)
    assert pixels.shape == (1000, 800, 3)


def test_small_jpeg_is_decoded_whole() -> None:
    assert decoded(encoded(smooth(300, 400), "JPEG"), resize=BUDGET).shape == (300, 400, 3)


@pytest.mark.parametrize("stop", [lambda d: d.cancel(), lambda d: None])
def test_no_work_is_begun_for_nobody(stop: Callable[[Deadline], None]) -> None:
    deadline = Deadline(0, "test")
    stop(deadline)
    with pytest.raises((StageTimeout, WorkCancelled)):
        decode_picture(encoded(two_halves(), "PNG"), LABEL, MAX_PIXELS, deadline)
