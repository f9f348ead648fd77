"""Scrambled broadcasts: named, whichever way their packets lie, and only where the wanted track is scrambled."""

import numpy as np
import pytest

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia
from deployments.media.sound import decode_sound
from deployments.media.transport_stream import is_scrambled
from tests.decoder.reading import read, task
from tests.support.media_files import make_sound, make_video

FIRST_PID = 0x100
"""Of FFmpeg's first track."""


def scrambled(data: bytes, pid: int, share: float = 1.0) -> bytes:
    """As an operator's multiplexer does it: payloads become noise, and a header's two bits tell the key."""
    packets = np.frombuffer(data, np.uint8).reshape(-1, 188).copy()
    of_track = ((packets[:, 1].astype(int) & 0x1F) << 8 | packets[:, 2]) == pid
    noise = np.random.default_rng(0).integers(0, 256, packets.shape, np.uint8)
    rows = np.flatnonzero(of_track & (packets[:, 3] & 0x10 > 0))
    for row in rows[: round(len(rows) * share)]:
        start = 4 + (1 + packets[row, 4] if packets[row, 3] & 0x20 else 0)
        packets[row, start:] ^= noise[row, start:]
        packets[row, 3] |= 0x80
    return packets.tobytes()


def with_times(data: bytes) -> bytes:
    """As Blu-ray discs and camcorders have it: four bytes before each packet."""
    packets = np.frombuffer(data, np.uint8).reshape(-1, 188)
    return np.hstack([np.zeros((len(packets), 4), np.uint8), packets]).tobytes()


@pytest.fixture(scope="module")
def broadcast() -> bytes:
    return make_video(50, container="mpegts")


@pytest.mark.parametrize("arranged", [bytes, with_times])
def test_a_scrambled_video_is_called_encrypted(broadcast: bytes, arranged) -> None:
    with pytest.raises(BadMedia, match="the video is encrypted"):
        read(arranged(scrambled(broadcast, FIRST_PID)))


def test_another_track_s_scrambling_and_a_few_scrambled_packets_harm_nothing(broadcast: bytes) -> None:
    whole = read(broadcast, task(4))
    other = read(scrambled(broadcast, 0x1F0), task(4))
    assert (other.payload["frames_THWC"] == whole.payload["frames_THWC"]).all()
    data = np.frombuffer(scrambled(broadcast, FIRST_PID, 0.2), np.uint8)
    assert not is_scrambled(data, FIRST_PID)


def test_a_scrambled_sound_is_called_encrypted() -> None:
    sound = make_sound("mpegts")
    with pytest.raises(BadMedia, match="the audio is encrypted"):
        data = np.frombuffer(scrambled(sound, FIRST_PID), np.uint8)
        decode_sound(data, "mpegts", 16_000, 100.0, "item", Deadline(30, "t"))


@pytest.mark.parametrize("data", [b"", b"G", b"G" * 100, bytes(1000)])
def test_what_is_no_transport_stream_is_not_scrambled(data: bytes) -> None:
    assert not is_scrambled(np.frombuffer(data, np.uint8), FIRST_PID)
