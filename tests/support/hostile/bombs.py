"""Small files that would unpack to much, made with real encoders and then changed: for tests, fuzzing and the siege."""

import functools
import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
from PIL import Image, PngImagePlugin

from tests.support.media_files import make_picture, make_sound, make_video


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


def boxes_of(data: bytes) -> dict[bytes, bytes]:
    """By their names, each whole."""
    found, at = {}, 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found[data[at + 4 : at + 8]] = data[at : at + size]
        at += size
    return found


def box(name: bytes, *contents: bytes) -> bytes:
    body = b"".join(contents)
    return struct.pack(">I", 8 + len(body)) + name + body


def mp4_claiming(
    samples: int, *, tracks: int = 1, compressed: bool = False, at_root: bool = False, padding: int = 0
) -> bytes:
    """A real video whose tables claim so many samples of one byte each."""
    outer = boxes_of(make_video(30))
    inner = boxes_of(outer[b"moov"][8:])
    track = patched(inner[b"trak"], b"stsz", 8, struct.pack(">II", 1, samples))
    index = box(b"moov", inner[b"mvhd"], b"" if at_root else track * tracks)
    if compressed:
        packed = box(b"cmvd", struct.pack(">I", len(index)), zlib.compress(index))
        index = box(b"moov", box(b"cmov", box(b"dcom", b"zlib"), packed))
    return outer[b"ftyp"] + (track if at_root else b"") + index + outer[b"mdat"] + box(b"mdat", bytes(padding))


def tiny_packets(count: int) -> bytes:
    """A video in which nothing but the first frame has any content."""
    sink = io.BytesIO()
    with (
        av.open(io.BytesIO(make_video(2, width=64, height=64, b_frames=0))) as source,
        av.open(sink, "w", "mp4") as output,
    ):
        (stream,) = source.streams.video
        first, copy = bytes(next(source.demux(stream))), output.add_stream_from_template(stream)
        for number in range(count):
            packet = av.Packet(first if number == 0 else b"\0\0\0\1\x09")
            packet.pts = packet.dts = number
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 1000), number == 0, copy
            output.mux(packet)
    return sink.getvalue()


def jpeg_of_scans(count: int) -> bytes:
    data = make_picture("JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), len(data) - 2
    return data[:end] + data[last:end] * count + data[end:]


def fax_of_rows(rows: int) -> bytes:
    about = {256: 1, 257: rows, 258: 1, 259: 2, 262: 0, 273: 8, 277: 1, 278: rows, 279: 8}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in about.items())
    return struct.pack("<2sHI", b"II", 42, 16) + b"\xaa" * 8 + struct.pack("<H", len(about)) + table + bytes(4)


BOMBS = {
    "MP4 with a compressed index": lambda: mp4_claiming(2**26, compressed=True),
    "MP4 with three tracks in a compressed index": lambda: mp4_claiming(2**26, tracks=3, compressed=True),
    "MP4 whose track stands beside its index": lambda: mp4_claiming(2**26, at_root=True),
    "MP4 of three tracks, a sample a byte together": lambda: mp4_claiming(999_000, tracks=3, padding=3_000_000),
    "MP4 of seven samples a byte": lambda: mp4_claiming(21_000_000, padding=3_000_000),
    "MP4 of 60,000 frames of five bytes": lambda: tiny_packets(60_000),
    "MP4 of a million empty boxes": lambda: make_video(2) + box(b"emty") * 1_000_001,
    "MP4 that counts its samples a million times": lambda: make_video(2) + box(b"moov", b"stsz" * 1_000_001),
    "WAV whose tag claims 2^31 bytes": lambda: patched(
        make_sound("wav"), b"data", 0, b"LIST" + struct.pack("<I", 2**31) + b"INFOISFT" + struct.pack("<I", 0x76CB0000)
    ),
    "JPEG of 1000 scans": lambda: jpeg_of_scans(1000),
    "TIFF of a million rows in 8 bytes": lambda: fax_of_rows(1_000_000),
    "PNG of one column": lambda: png_of(1, 1_900_000),
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

HARMLESS = {"WAV that claims 4 GiB", "PNG text of 20 MB"}
"""What is not read of them is what is large."""

SEEDS = {
    "pictures": (
        "JPEG of 1000 scans",
        "TIFF of a million rows in 8 bytes",
        "PNG of one column",
        "GIF of 65535 x 65535",
        "BMP of 2^31 rows",
        "WebP of 16384 x 16384",
        "PNG text of 20 MB",
    ),
    "videos": (
        "MP4 with a compressed index",
        "MP4 with three tracks in a compressed index",
        "MP4 whose tables claim 2^31 samples",
        "MP4 whose track stands beside its index",
        "MP4 whose fragment claims 2^26 frames",
    ),
    "sounds": ("WAV whose tag claims 2^31 bytes", "WAV that claims 4 GiB"),
}
"""Names of those that are small enough to be sent, or changed, thousands of times, by group (see `corpus.GROUPS`)."""


@functools.cache
def bombs_of(group: str) -> dict[str, bytes]:
    """Files of `SEEDS`."""
    return {name: BOMBS[name]() for name in SEEDS[group]}
