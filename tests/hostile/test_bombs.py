"""Small files that would unpack to much: refused by what their headers say, at the price of reading these."""

import functools
import io
import struct
import zlib

import av
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.support.hostile.media_subject import MediaSubject
from tests.support.hostile.worker import Report, feed_all
from tests.support.media_files import make_picture, make_sound, make_video

MAX_GROWN_BYTES = 48 * 2**20


def png_of(width: int, height: int) -> bytes:
    """Only zeros, a thousandth of the size."""
    packer = zlib.compressobj(9)
    row = bytes(1 + width * 3)
    pixels = b"".join(packer.compress(row) for _ in range(min(height, 300))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def png_with_text(size: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * size, zip=True)
    sink = io.BytesIO()
    Image.new("RGB", (8, 8)).save(sink, "PNG", pnginfo=info)
    return sink.getvalue()


def patched(data: bytes, mark: bytes, after: int, value: bytes) -> bytes:
    at = data.index(mark) + after
    return data[:at] + value + data[at + len(value) :]


def large_video() -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 4096, 4096, "yuv420p"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((4096, 4096, 3), np.uint8), format="rgb24")))
        output.mux(stream.encode())
    return sink.getvalue()


BOMBS = {
    "PNG of 1.2 gigapixels": lambda: png_of(40_000, 30_000),
    "PNG text of 20 MB": lambda: png_with_text(20_000_000),
    "JPEG of 65500 x 65500": lambda: patched(make_picture("JPEG"), b"\xff\xc0", 5, struct.pack(">HH", 65500, 65500)),
    "GIF of 65535 x 65535": lambda: patched(make_picture("GIF", mode="P"), b"GIF8", 6, b"\xff\xff\xff\xff"),
    "BMP of 2^31 rows": lambda: patched(make_picture("BMP"), b"BM", 18, struct.pack("<ii", 60_000, 2**31 - 1)),
    "WebP of 16384 x 16384": lambda: patched(
        make_picture("WEBP", lossless=True), b"VP8L", 9, struct.pack("<I", 0x0FFFFFFF)
    ),
    "MP4 of 4096 x 4096": large_video,
    "FLAC of ten minutes": lambda: make_sound("flac", seconds=600, rate=8000, tones_hz=(0.0,)),
    "WAV that claims 4 GiB": lambda: patched(make_sound("wav"), b"data", 4, b"\xff\xff\xff\xff"),
    "MP4 whose fragment claims 2^26 frames": lambda: patched(
        make_video(30, muxer_options={"movflags": "frag_keyframe+empty_moov"}), b"trun", 4, struct.pack(">II", 1, 2**26)
    ),
    "MP4 whose fragment's box has the long form and so other numbers": lambda: patched(
        make_video(30, muxer_options={"movflags": "frag_keyframe+empty_moov"}), b"trun", -4, struct.pack(">I", 1)
    ),
    "MP4 whose frames are all of one size, 2^28 of them": lambda: patched(
        make_video(30), b"stsz", 8, struct.pack(">II", 1, 2**28)
    ),
    "MP4 whose tables claim 2^31 samples": lambda: patched(make_video(30), b"stsz", 12, struct.pack(">I", 2**31 - 1)),
}


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    files = [make() for make in BOMBS.values()]
    warm_up = [make_picture("PNG"), make_picture("JPEG"), make_picture("GIF", mode="P"), make_video(2)]
    subject = functools.partial(MediaSubject, 30.0)
    found = feed_all(subject, files, warm_up=[*warm_up, make_sound("flac"), make_sound("wav")])
    return {list(BOMBS)[report.number]: report for report in found}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_take_memory(reports: dict[str, Report], name: str) -> None:
    report = reports[name]
    assert len(report.data) < 8 * 2**20
    assert report.outcome == ("answered" if name == "WAV that claims 4 GiB" else "refused"), report.detail
    assert report.grown_bytes < MAX_GROWN_BYTES
