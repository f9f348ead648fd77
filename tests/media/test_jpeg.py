"""JPEGs that are decoded without Pillow have Pillow's pixels, and its word on what is damaged."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deployments.media.jpeg import plain_jpeg


def jpeg(height: int, width: int, **options: Any) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(height + width).integers(0, 256, (4, 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


WHOLE = jpeg(60, 70, quality=90)


def by_pillow(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data.data)) as image:
        return np.asarray(image)


@settings(max_examples=30, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from([0, 1, 2, "4:1:1"]),
    progressive=st.booleans(),
    restarts=st.integers(0, 2),
)
def test_pixels_are_pillows(sides, quality, subsampling, progressive, restarts):
    data = jpeg(*sides, quality=quality, subsampling=subsampling, progressive=progressive, restart_marker_rows=restarts)
    pixels = plain_jpeg(data)
    assert pixels is not None
    assert np.array_equal(pixels, by_pillow(data))


@pytest.mark.parametrize("keep_rgb", [True, False])
def test_colours_that_were_not_converted_stay_so(keep_rgb):
    data = jpeg(50, 60, keep_rgb=keep_rgb)
    assert np.array_equal(plain_jpeg(data), by_pillow(data))


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 2000), value=st.integers(0, 255), cut=st.none() | st.integers(1, 1500))
def test_what_is_read_of_damaged_files_pillow_reads_to_the_same_pixels(place, value, cut):
    damaged = WHOLE.copy()
    damaged[place % len(damaged)] = value
    damaged = damaged[: len(damaged) - cut] if cut is not None else damaged
    pixels = plain_jpeg(damaged)
    try:
        image = Image.open(io.BytesIO(damaged))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return  # refused by its header, before it is decoded by either
    if pixels is not None and image.mode == "RGB":
        assert np.array_equal(pixels, np.asarray(image))
