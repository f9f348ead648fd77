import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, StageTimeout, TooLarge, UnsupportedCodec, WorkCancelled
from deployments.media.essentials import MAX_PIECES, jpeg_segments
from deployments.media.geometry import MAX_KEPT_PIXELS, target_size
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


@settings(max_examples=60, deadline=None)
@given(format=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]), data=st.data())
def test_damaged_bytes_give_pixels_or_a_client_error(format: str, data: st.DataObject) -> None:
    original = encoded(two_halves(), format).copy()
    for _ in range(data.draw(st.integers(1, 8))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decoded(original).ndim == 3
    except (BadMedia, TooLarge, UnsupportedCodec) as error:
        assert error.param == LABEL  # noqa: PT017


def smooth(height: int, width: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [127 + 100 * np.sin(rows / 90 + k) * np.cos(columns / 70 - k) for k in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


# ── beside the pixels ────────────────────────────────────────────────────────────────────────────────────────────────


def chunk(name: bytes, body: bytes, checksum: int | None = None) -> bytes:
    told = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", told)


def png_with(extra: bytes) -> NDArray[np.uint8]:
    """Extra chunks behind the header."""
    data = encoded(two_halves(), "PNG").tobytes()
    return np.frombuffer(data[:33] + extra + data[33:], np.uint8)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"tEXt", b"comment\0hello", checksum=1),
        chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"zTXt", b"comment\0\0no zlib at all"),
        chunk(b"iTXt", b"comment"),
        chunk(b"iCCP", b"profile\0\0damaged"),
        chunk(b"pHYs", b"1"),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n     999\nzz")),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 4\n00"),
    ],
)
def test_damage_beside_the_pixels_of_a_png_is_no_damage(extra: bytes) -> None:
    assert np.array_equal(decoded(png_with(extra)), np.asarray(two_halves()))


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe1\x00\x10Exif\0\0MM\0*\xff\xff\xff\xff",
        b"\xff\xe1\x00\x08Exif\0\0",
        b"\xff\xe2\x00\x12ICC_PROFILE\0\x09\x01ab",
        b"\xff\xe2\x00\x09MPF\0\xff\xff\xff",
        b"\xff\xed\x00\x18Photoshop 3.0\x008BIM\x04\x04\xff\xff",
        b"\xff\xfe\x00\x06\xff\xd8\xff\xd9",
    ],
)
def test_damage_beside_the_pixels_of_a_jpeg_is_no_damage(segment: bytes) -> None:
    data = encoded(two_halves(), "JPEG").tobytes()
    assert np.array_equal(
        decoded(np.frombuffer(data[:2] + segment + data[2:], np.uint8)), decoded(np.frombuffer(data, np.uint8))
    )


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_seen_as_pillow_turns_it(orientation: int, format: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)).resize((48, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(image, format, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data.tobytes())))
    assert np.array_equal(decoded(data), np.asarray(expected.convert("RGB")))


def test_the_transparent_value_of_sixteen_bit_grey_lies_on_white() -> None:
    grey = np.full((4, 4), 0x2000, np.uint16)
    grey[0, 0] = 0x20FF
    data = encoded(Image.fromarray(grey), "PNG").tobytes()
    see_through = chunk(b"tRNS", struct.pack(">H", 0x20FF))
    pixels = decoded(np.frombuffer(data[:33] + see_through + data[33:], np.uint8))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert tuple(pixels[1, 1]) == (0x20, 0x20, 0x20)


def test_a_gif_whose_picture_is_smaller_than_its_canvas_lies_on_white() -> None:
    data = bytearray(encoded(Image.new("RGB", (10, 10), RED), "GIF").tobytes())
    data[6:10] = struct.pack("<HH", 20, 30)
    pixels = decoded(np.frombuffer(bytes(data), np.uint8))
    assert pixels.shape == (30, 20, 3)
    assert is_colour(pixels[5, 5], RED)
    assert pixels[10:].min() == pixels[:, 10:].min() == 255


def test_kinds_that_are_not_supported_are_called_that() -> None:
    header = struct.pack("<IiiHHIIiiIIIIII", 56, 4, 4, 1, 32, 3, 64, 0, 0, 0, 0, 0x3FF, 0xFFC00, 0x3FF00000, 0)
    bmp = b"BM" + struct.pack("<IHHI", 14 + 56 + 64, 0, 0, 14 + 56) + header + bytes(64)
    with pytest.raises(UnsupportedCodec, match="a BMP picture of a kind that is not supported"):
        decoded(np.frombuffer(bmp, np.uint8))


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
        (b"\xff\x0a" + bytes(40), "a JPEG XL picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7", "a PDF document"),
    ],
)
def test_what_is_not_read_is_called_by_its_name(head: bytes, name: str) -> None:
    with pytest.raises(BadMedia, match=f"its bytes look like {name}; allowed: JPEG"):
        decoded(np.frombuffer(head, np.uint8))


# ── what would cost more than it tells ───────────────────────────────────────────────────────────────────────────────


def many_scans(count: int) -> NDArray[np.uint8]:
    """A progressive JPEG whose last scan comes again and again."""
    data = encoded(smooth(64, 64), "JPEG", progressive=True)
    segments = list(jpeg_segments(data))
    _, start, end = [segment for segment in segments if segment[0] == 0xDA][-1]
    raw = data.tobytes()
    return np.frombuffer(raw[:end] + raw[start:end] * count + raw[end:], np.uint8)


def test_a_progressive_jpeg_has_few_scans() -> None:
    assert decoded(many_scans(20)).shape == (64, 64, 3)
    with pytest.raises(BadMedia, match="too many scans: 100"):
        decoded(many_scans(100))


def test_scans_of_a_thumbnail_or_behind_the_end_are_not_counted() -> None:
    data = encoded(smooth(64, 64), "JPEG").tobytes()
    noise = b"\xff\xda" * 1000
    comment = b"\xff\xfe" + struct.pack(">H", len(noise) + 2) + noise
    assert decoded(np.frombuffer(data[:2] + comment + data[2:] + noise, np.uint8)).shape == (64, 64, 3)


def fax(rows: int, coded: bytes) -> NDArray[np.uint8]:
    """A TIFF file of one column, coded as a fax."""
    entries = [
        (256, 3, 1),
        (257, 4, rows),
        (258, 3, 1),
        (259, 3, 2),
        (262, 3, 0),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, rows),
        (279, 4, len(coded)),
    ]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    header = struct.pack("<2sHI", b"II", 42, 8 + len(coded))
    return np.frombuffer(header + coded + struct.pack("<H", len(entries)) + table + bytes(4), np.uint8)


def test_a_fax_of_more_rows_than_bits_is_refused_by_its_header() -> None:
    with pytest.raises(BadMedia, match="fewer bytes than pixels need"):
        decoded(fax(20_000, b"\xaa" * 8))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_a_million_tiles_is_refused_before_pillow_lists_them(order: str) -> None:
    tiles = 1000 * 1000
    about = {256: 1000, 257: 1000, 258: 8, 259: 1, 262: 1, 277: 1, 322: 1, 323: 1}
    rows = [struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in about.items()]
    rows += [struct.pack(order + "HHII", tag, 4, tiles, 200) for tag in (324, 325)]
    head = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(rows))
    data = (head + b"".join(rows)).ljust(200, b"\0") + bytes(4 * tiles)
    tracemalloc.start()
    with pytest.raises(TooLarge, match="a tag of more than 100000 values"):
        decoded(np.frombuffer(data, np.uint8))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_libtiff_says_nothing_of_damaged_rows(capfd: pytest.CaptureFixture[str]) -> None:
    with suppress(BadMedia):
        decoded(fax(10_000, b"\xaa" * 4000))
    assert capfd.readouterr().err == ""


def test_pictures_in_too_many_pieces_are_not_taken_apart() -> None:
    with pytest.raises(BadMedia):
        decoded(png_with(chunk(b"tEXt", b"") * MAX_PIECES))
    data = encoded(two_halves(), "JPEG").tobytes()
    with pytest.raises(BadMedia):
        decoded(np.frombuffer(data[:2] + b"\xff\xfe\0\2" * MAX_PIECES + data[2:], np.uint8))


def test_formats_that_take_more_memory_have_a_limit_of_their_own() -> None:
    webp = encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True).tobytes()
    at = webp.index(b"VP8L") + 9
    large = webp[:at] + struct.pack("<I", 7999 << 14 | 7999) + webp[at + 4 :]
    with pytest.raises(TooLarge, match="8000 x 8000 pixels, the limit of WEBP is 35294117"):
        decoded(np.frombuffer(large, np.uint8), max_pixels=64_000_000)


@pytest.mark.parametrize("size", [(70_000, 1), (1, 70_000)])
def test_a_side_has_a_limit_of_its_own(size: tuple[int, int]) -> None:
    with pytest.raises(TooLarge, match="65535 a side"):
        decoded(png_bomb(*size))


@pytest.mark.parametrize("mode", ["RGB", "LA", "P", "1"])
def test_a_picture_too_large_to_be_kept_comes_at_a_fraction_of_its_size(mode: str) -> None:
    image = smooth(140, 146).resize((4400, 4200), Image.Resampling.NEAREST).convert(mode)
    pixels = decoded(encoded(image, "PNG", compress_level=1), max_pixels=64_000_000, resize=BUDGET)
    assert pixels.shape == (525, 550, 3)
    expected = np.asarray(image.convert("RGB").reduce(8))
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_what_comes_next_changes_no_pixel(format: str) -> None:
    data = encoded(smooth(800, 1000), format)
    assert np.array_equal(decoded(data, resize=BUDGET), decoded(data))


LARGEST = ResizeRule("frame", factor=28, min_pixels=28 * 28, max_pixels=16_000_000)


@pytest.mark.parametrize(("format", "resize"), [("PNG", None), ("PNG", LARGEST), ("JPEG", LARGEST), ("BMP", LARGEST)])
def test_no_picture_is_kept_larger_than_a_model_looks_at(format: str, resize: ResizeRule | None) -> None:
    image = Image.new("RGB", (5003, 4001), RED)
    pixels = decoded(encoded(image, format), max_pixels=64_000_000, resize=resize)
    assert pixels.shape[0] * pixels.shape[1] <= MAX_KEPT_PIXELS
    assert is_colour(pixels[-1, -1], RED)
    if resize is not None:
        wanted = target_size(resize, 1, 4001, 5003)
        assert target_size(resize, 1, *pixels.shape[:2]) == wanted


BUDGET = ResizeRule("frame", factor=28, min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 256)


def test_where_it_may_a_large_jpeg_is_drafted_at_twice_the_next_size() -> None:
    data = encoded(smooth(1600, 2000), "JPEG")
    assert target_size(BUDGET, 1, 1600, 2000) == (392, 476)
    assert decoded(data, resize=BUDGET, draft=True).shape == (800, 1000, 3)
    assert decoded(encoded(smooth(1560, 1900), "JPEG"), resize=BUDGET, draft=True).shape == (1560, 1900, 3)
    assert decoded(encoded(smooth(1600, 2000), "BMP"), resize=BUDGET, draft=True).shape == (1600, 2000, 3)


def test_a_draft_is_taken_along_the_right_axes_of_a_rotated_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decoded(encoded(smooth(1600, 2000), "JPEG", exif=exif), resize=BUDGET, draft=True)
    assert pixels.shape == (1000, 800, 3)


@pytest.mark.parametrize("stop", [lambda d: d.cancel(), lambda d: None])
def test_no_work_is_begun_for_nobody(stop: Callable[[Deadline], None]) -> None:
    deadline = Deadline(0, "test")
    stop(deadline)
    with pytest.raises((StageTimeout, WorkCancelled)):
        decode_picture(encoded(two_halves(), "PNG"), LABEL, MAX_PIXELS, deadline)
