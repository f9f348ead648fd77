"""Small real files of every container, picture and sound format that is read: what is then mutated."""

import functools

from tests.support.hostile.bombs import tiny_packets
from tests.support.media_files import make_picture, make_sound, make_track, make_video

_SMALL = {"frames": 16, "width": 64, "height": 64}


GROUPS = ("pictures", "videos", "sounds")


@functools.cache
def media_corpus(group: str) -> dict[str, bytes]:
    """Files of one of `GROUPS`, by a name that says what they are. Takes a second or two, once a process."""
    return {"pictures": _pictures, "videos": _videos, "sounds": _sounds}[group]()


def _pictures() -> dict[str, bytes]:
    size = {"width": 64, "height": 48}
    return {
        "jpeg": make_picture("JPEG", orientation=6, **size),
        "jpeg progressive": make_picture("JPEG", progressive=True, **size),
        "jpeg cmyk": make_picture("JPEG", mode="CMYK", **size),
        "png": make_picture("PNG", mode="RGBA", alpha=100, **size),
        "png palette": make_picture("PNG", mode="P", transparency=3, **size),
        "png 16 bits": make_picture("PNG", mode="I;16", **size),
        "webp": make_picture("WEBP", **size),
        "webp lossless": make_picture("WEBP", mode="RGBA", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0", **size),
        "gif": make_picture("GIF", mode="P", **size),
        "bmp": make_picture("BMP", **size),
        "tiff": make_picture("TIFF", compression="raw", **size),
        "tiff lzw": make_picture("TIFF", compression="tiff_lzw", **size),
        "tiff jpeg": make_picture("TIFF", compression="jpeg", **size),
        "tiff deflate": make_picture("TIFF", mode="L", compression="tiff_adobe_deflate", **size),
        "avif": make_picture("AVIF", **size),
    }


def _videos() -> dict[str, bytes]:
    return {
        "mp4 h264 aac": make_video(**_SMALL, tones_hz=(440.0,)),
        "mp4 edit list": make_video(**_SMALL, hidden=4, rotation=90),
        "mp4 fragments": make_video(**_SMALL, muxer_options={"movflags": "frag_keyframe+empty_moov"}),
        "mp4 hevc": make_video(**_SMALL, codec="libx265"),
        "mp4 av1": make_video(**_SMALL, codec="libsvtav1"),
        "mp4 of tiny packets": tiny_packets(300),
        "mov mpeg4": make_video(**_SMALL, codec="mpeg4", container="mov"),
        "matroska h264 opus": make_video(
            **_SMALL, container="matroska", tones_hz=(440.0, 550.0), audio_codec="libopus", audio_rate=48_000
        ),
        "webm vp8": make_video(**_SMALL, codec="libvpx", container="webm"),
        "webm vp9 live": make_video(**_SMALL, codec="libvpx-vp9", container="webm", seekable=False),
        "mpegts h264 aac": make_video(**_SMALL, container="mpegts", tones_hz=(440.0,)),
        "mpegts mpeg2": make_video(**_SMALL, codec="mpeg2video", container="mpegts"),
        "avi mpeg4": make_video(**_SMALL, codec="mpeg4", container="avi"),
        "avi h264 mp3": make_video(**_SMALL, container="avi", tones_hz=(440.0,), audio_codec="libmp3lame"),
        "flv h264 aac": make_video(**_SMALL, container="flv", tones_hz=(440.0,)),
    }


def _sounds() -> dict[str, bytes]:
    short = {"seconds": 0.3, "rate": 16_000}
    return {
        "wav": make_sound("wav", **short),
        "flac": make_sound("flac", **short, tones_hz=(440.0, 550.0)),
        "ogg vorbis": make_sound("ogg", **short),
        "mp3": make_sound("mp3", **short),
        "mp3 joined": make_sound("mp3", **short) + make_sound("mp3", seconds=0.3, rate=22_050),
        "aac": make_sound("aac", **short),
        "m4a": make_sound("m4a", **short),
        "ogg opus": make_sound("opus", seconds=0.3, rate=48_000),
        "webm opus": make_sound("webm", seconds=0.3, rate=48_000),
        "wav adpcm": make_track("wav", "adpcm_ima_wav", **short),
        "wav mp3": make_track("wav", "libmp3lame", **short),
        "ogg flac": make_track("ogg", "flac", **short),
        "ts mp3": make_track("mpegts", "libmp3lame", **short),
        "avi mp3": make_track("avi", "libmp3lame", **short),
        "flv mp3": make_track("flv", "libmp3lame", seconds=0.3, rate=22_050),
        "aac behind a tag": b"ID3\x04\0\0\0\0\0\x20" + bytes(32) + make_sound("aac", **short),
    }
