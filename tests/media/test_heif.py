"""HEIC pictures: read where the extra is installed, refused with its name where it is not; counted before they are
decoded."""

import io
import re
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, TooLarge
from deployments.media.heif import coded_pixels, reads_heif
from deployments.media.picture_size import declared_pixels
from deployments.media.pictures import decode_picture, most_decode_bytes
from tests.support.media_files import make_picture, numbered_frame, read_number

pillow_heif = pytest.importorskip("pillow_heif")
assert reads_heif()


def heic(height: int = 96, width: int = 128, tile: int = 0, **options: object) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    pillow_heif.options.GRID_TILE_SIZE = tile
    try:
        Image.fromarray(numbered_frame(1234, height, width)).save(buffer, "HEIF", **options)
    finally:
        pillow_heif.options.GRID_TILE_SIZE = 0
    return np.frombuffer(buffer.getvalue(), np.uint8)


def decoded(data: NDArray[np.uint8], max_pixels: int = 4_000_000) -> NDArray[np.uint8]:
    return decode_picture(data, "item", max_pixels, Deadline(60, "test"))


@pytest.mark.parametrize("tile", [0, 64])
def test_a_heic_picture_comes_out_as_rgb_rows(tile: int) -> None:
    data = heic(tile=tile)
    pixels = decoded(data)
    assert declared_pixels(data, "heic") == 96 * 128
    assert pixels.shape == (96, 128, 3)
    assert read_number(pixels) == 1234


def test_it_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decoded(heic(exif=exif.tobytes()))
    assert pixels.shape == (128, 96, 3)
    assert read_number(np.rot90(pixels).copy()) == 1234


def test_transparent_parts_lie_on_white() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 48), (200, 30, 40, 0)).save(buffer, "HEIF")
    assert decoded(np.frombuffer(buffer.getvalue(), np.uint8)).min() > 245


@pytest.mark.parametrize(("sides", "tile", "least"), [((96, 128), 0, 96 * 128), ((100, 130), 64, 2 * 3 * 64 * 64)])
def test_what_the_codec_decodes_is_counted_from_the_boxes(sides: tuple[int, int], tile: int, least: int) -> None:
    assert least <= coded_pixels(heic(*sides, tile=tile)) <= 1.3 * least


def test_the_limit_holds_for_the_picture_and_for_what_is_coded() -> None:
    with pytest.raises(TooLarge, match=r"coded as 24576 pixels"):
        decoded(heic(100, 130, tile=64), max_pixels=100 * 130)
    with pytest.raises(TooLarge, match="limit"):
        decoded(heic(), max_pixels=96 * 128 - 1)
    assert most_decode_bytes(heic(), "item", 10**6) >= 10 * 96 * 128


def test_a_size_that_only_the_codec_knows_counts() -> None:
    """The box says 128 x 96, the codec's own parameters say four times as much."""
    large, small = heic(192, 256).tobytes(), heic(96, 128).tobytes()
    size = re.search(rb"ispe.{4}(.{8})", large, re.DOTALL)
    told = re.search(rb"ispe.{4}(.{8})", small, re.DOTALL)
    assert size is not None
    assert told is not None
    lying = np.frombuffer(large.replace(size[1], told[1]), np.uint8)
    assert coded_pixels(lying) == 192 * 256
    with pytest.raises(TooLarge, match="coded as"):
        decoded(lying, max_pixels=96 * 128)


@pytest.mark.parametrize("kept", [20, 200, 400, -300])
def test_a_cut_file_is_the_clients_fault(kept: int) -> None:
    with pytest.raises(BadMedia):
        decoded(heic()[:kept])


def test_damaged_boxes_are_the_clients_fault_or_harmless() -> None:
    whole = heic()
    for place in range(28, len(whole), 9):
        damaged = whole.copy()
        damaged[place] ^= 0xA5
        with suppress(BadMedia, TooLarge):
            assert decoded(damaged).ndim == 3


def test_without_the_extra_it_is_refused_with_its_name() -> None:
    script = """
import sys
sys.modules["pillow_heif"] = None
import numpy as np
from deployments.core.deadline import Deadline
from deployments.media.picture_size import declared_pixels
from deployments.media.pictures import decode_picture
head = np.frombuffer(b"\\0\\0\\0\\x18ftypheic\\0\\0\\0\\0mif1heic", np.uint8)
try:
    decode_picture(head, "item", 10**6, Deadline(9, "t"))
except Exception as error:
    print(type(error).__name__, error.param, error.message)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("UnsupportedCodec item ")
    assert "extra `heic`" in ran.stdout


def test_other_pictures_do_not_ask_for_it() -> None:
    assert decoded(np.frombuffer(make_picture("PNG"), np.uint8)).ndim == 3
