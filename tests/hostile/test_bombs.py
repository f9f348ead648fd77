"""Small files that would unpack to much: refused by what their headers say, at the price of reading these."""

import functools
import io

import numpy as np
import pytest
from PIL import Image

from deployments.core.deadline import Deadline
from deployments.media.pictures import decode_picture
from deployments.types import ResizeRule
from tests.support.hostile.bombs import BOMBS, HARMLESS
from tests.support.hostile.media_subject import MediaSubject
from tests.support.hostile.worker import Report, feed_all
from tests.support.media_files import make_picture, make_sound, make_video

MAX_GROWN_BYTES = 48 * 2**20


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    files = [make() for make in BOMBS.values()]
    warm_up = [
        make_picture("PNG"),
        make_picture("TIFF"),
        make_picture("JPEG"),
        make_picture("GIF", mode="P"),
        make_video(2),
    ]
    subject = functools.partial(MediaSubject, 30.0)
    found = feed_all(subject, files, warm_up=[*warm_up, make_sound("flac"), make_sound("wav")])
    return {list(BOMBS)[report.number]: report for report in found}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_take_memory(reports: dict[str, Report], name: str) -> None:
    report = reports[name]
    assert len(report.data) < 9 * 2**20
    assert report.outcome == ("answered" if name in HARMLESS else "refused"), report.detail
    assert report.grown_bytes < MAX_GROWN_BYTES


class AtTheLimit:
    """Reads a picture of as many pixels as may be six times, and keeps what a model of two megapixels wants of them."""

    RULE = ResizeRule("frame", factor=28, min_pixels=28 * 28, max_pixels=2_000_000)

    def feed(self, data: bytes) -> str:
        file = np.frombuffer(data, np.uint8)
        kept = [decode_picture(file, "item", 64_000_000, Deadline(100, "test"), self.RULE) for _ in range(6)]
        return " ".join({str(pixels.shape[:2]) for pixels in kept})


LARGE = {"PNG": {}, "JPEG": {"progressive": True}, "WEBP": {"lossless": True, "method": 0}, "BMP": {}}


def test_pictures_at_the_limit_take_the_memory_of_one_and_keep_what_is_wanted() -> None:
    files = []
    for fmt, options in LARGE.items():
        sink = io.BytesIO()
        Image.new("RGB", (5000, 4000), "red").save(sink, fmt, **options)
        files.append(sink.getvalue())
    one_bytes, kept_bytes = 17 * 5000 * 4000, 6 * 3 * 2500 * 2000
    for report in feed_all(AtTheLimit, files, warm_up=[make_picture(fmt) for fmt in LARGE]):
        assert report.outcome == "(2000, 2500)", report.detail
        assert report.grown_bytes < one_bytes + len(report.data) + kept_bytes + MAX_GROWN_BYTES
