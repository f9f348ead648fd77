"""Real files that were read wrongly once; skipped where they are not."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, UnsupportedCodec
from deployments.media.pictures import decode_picture
from deployments.media.sniff import HEAD_BYTES, sniff
from deployments.media.sound import decode_sound
from deployments.types import MediaKind

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.exists(), reason="the files are not here")

SOUNDS_S = {
    "sound-mp3-vbr-2-beeps.mp3": 2.0,
    "sound-joined.mp3": 7.054,
    "sound-cut-after-0.26s.mp3": 3.344,
    "sound-mp3-in-wav-60s.wav": 60.029,
    "sound-wav-data-size-0.wav": 2.4,
    "sound-ogg-flac.ogg": 3.030,
    "sound-ogg-speex.ogg": 2.92,
    "sound-multiplex.ogg": 2.0,
    "sound-leading-zeros.mp3": 2.808,
    "sound-aac-with-id3.aac": 9.985,
    "sound-mp3-in-ts.ts": 5.04,
}


def array(name: str) -> NDArray[np.uint8]:
    return np.frombuffer((CASES / name).read_bytes(), np.uint8)


def picture(name: str) -> NDArray[np.uint8]:
    return decode_picture(array(name), "item", 64_000_000, Deadline(60, "test"))


@pytest.mark.parametrize("name", SOUNDS_S)
def test_all_of_a_sound_is_heard(name: str) -> None:
    data = array(name)
    found = sniff(data[:HEAD_BYTES].tobytes())
    assert found.may_be(MediaKind.AUDIO)
    samples = decode_sound(data, found.container or "", 16_000, 600.0, "item", Deadline(60, "test"))
    assert len(samples) / 16_000 == pytest.approx(SOUNDS_S[name], abs=0.001)


def test_two_beeps_are_two() -> None:
    data = array("sound-mp3-vbr-2-beeps.mp3")
    samples = decode_sound(data, "mp3", 16_000, 600.0, "item", Deadline(60, "test"))
    loud = np.abs(samples[: len(samples) // 160 * 160]).reshape(-1, 160).max(axis=1) > 0.1
    assert int((np.diff(loud.astype(int), prepend=0) == 1).sum()) == 2


@pytest.mark.parametrize("name", ["picture-long-ztxt.png", "picture-issue430.png"])
def test_pictures_with_odd_chunks_are_shown(name: str) -> None:
    assert picture(name).std() > 5


def test_what_is_transparent_or_beside_a_picture_is_white() -> None:
    assert (picture("picture-16bit-transparent.png") == 255).any()
    assert tuple(picture("picture-undersized.gif")[-1, -1]) == (255, 255, 255)


def test_what_cannot_be_shown_is_named() -> None:
    with pytest.raises(BadMedia, match="AVIF picture that is damaged, or of a kind that is not supported"):
        picture("picture-mono-alpha.avif")
    with pytest.raises(UnsupportedCodec, match="BMP picture of a kind that is not supported"):
        picture("picture-rgb32bf.bmp")
    with pytest.raises(BadMedia, match="fewer bytes than pixels need"):
        picture("picture-ccitt-138-bytes.tif")
    with pytest.raises(BadMedia, match="too many scans"):
        picture("attacks/scans1000.jpg")
