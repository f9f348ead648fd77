"""Files that once did harm, found by fuzzing; made as small as they can be."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia
from deployments.media.pictures import decode_picture
from deployments.media.sound import decode_sound
from tests.support.media_files import make_picture


def many_channels(layout: str) -> bytes:
    """A tenth of a second of silence, PCM in Matroska."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as output:
        stream = output.add_stream("pcm_s16le", rate=16_000, layout=layout)
        packet = av.Packet(bytes(1600 * 2 * stream.layout.nb_channels))
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 16_000)
        output.mux(packet)
    return sink.getvalue()


@pytest.mark.parametrize("layout", ["7.1", "7.1.4"])
def test_sounds_of_many_channels_are_read(layout):
    """Reading them ended the process, which eight channels, a usual thing, were enough for."""
    samples = decode_sound(_array(many_channels(layout)), "matroska", 16_000, 10.0, "item", Deadline(30, "t"))
    assert len(samples) == 1600


def test_an_avif_whose_picture_is_damaged_is_the_client_s_fault():
    whole = make_picture("AVIF")
    payload = whole.index(b"mdat") + 4
    with pytest.raises(BadMedia):
        decode_picture(_array(whole[:payload] + bytes(len(whole) - payload)), "item", 10**6, Deadline(30, "t"))


@pytest.mark.parametrize("size", [0, 90, 91, 100_000])
def test_a_tag_that_reaches_beyond_the_file_is_the_client_s_fault(size):
    digits = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    with pytest.raises(BadMedia):
        decode_sound(_array(b"ID3\x04\0\0" + digits + bytes(90)), "mp3", 16_000, 10.0, "item", Deadline(30, "t"))


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
