import inspect
import re
import zipfile
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.media.container import DEMUXERS
from deployments.media.sniff import HEAD_BYTES, KINDS, sniff
from deployments.types import Fetched, MediaKind
from tests.support.media_files import make_picture, make_sound, make_video

PICTURES = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff", "AVIF": "avif"}
SOUNDS = {"wav": "wav", "flac": "flac", "ogg": "ogg", "mp3": "mp3", "aac": "aac", "opus": "ogg", "m4a": "mp4"}
VIDEOS = {"mp4": "mp4", "mov": "mp4", "matroska": "matroska", "mpegts": "mpegts", "avi": "avi", "flv": "flv"}


def look(data):
    return sniff(data[:HEAD_BYTES])


@pytest.mark.parametrize(("fmt", "container"), PICTURES.items())
def test_pictures_of_real_encoders_are_known(fmt, container):
    found = look(make_picture(fmt))
    assert found.container == container
    assert [kind for kind in MediaKind if found.may_be(kind)] == [MediaKind.IMAGE]


@pytest.mark.parametrize(("container", "name"), SOUNDS.items())
def test_sounds_of_real_encoders_are_known(container, name):
    found = look(make_sound(container, rate=48_000))
    assert found.container == name
    assert found.may_be(MediaKind.AUDIO)
    assert not found.may_be(MediaKind.IMAGE)


@pytest.mark.parametrize(("container", "name"), VIDEOS.items())
@pytest.mark.parametrize("seekable", [True, False])
def test_videos_of_real_encoders_are_known(container, name, seekable):
    if container in ("mp4", "mov", "avi") and not seekable:
        options = {"movflags": "frag_keyframe+empty_moov"} if container != "avi" else {}
        data = make_video(5, container=container, seekable=False, muxer_options=options)
    else:
        data = make_video(5, container=container, seekable=seekable)
    found = look(data)
    assert found.container == name
    assert found.may_be(MediaKind.VIDEO)
    assert not found.may_be(MediaKind.IMAGE)


def test_webm_is_matroska():
    assert look(make_video(5, container="webm", codec="libvpx")).container == "matroska"


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic", "heic"),
        (b"\x00\x00\x00\x18ftypheix\x00\x00\x00\x00mif1heic", "heic"),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf", "avif"),
        (b"\x00\x00\x00\x14ftypqt  \x00\x00\x02\x00qt  ", "mp4"),
        (b"\x00\x00\x00\x08wide\x00\x00\x10\x00mdat", "mp4"),
        (b"ID3\x04\x00\x00\x00\x00\x10\x00TSSE", "mp3"),
        (b"RF64\xff\xff\xff\xffWAVEds64", "wav"),
        ((b"\x00\x00\x00\x00" + b"\x47" + bytes(187)) * 4, "mpegts"),  # with time codes, as cameras write it
    ],
)
def test_rarer_beginnings_are_known(head, container):
    assert look(head).container == container


def zipped():
    sink = BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("clip.mp4", bytes(100))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"", "nothing: there are none"),
        (b"hello", "text"),
        ("Grüße aus Köln".encode() * 400, "text"),
        ("hello".encode("utf-16"), "text"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "a playlist (M3U8)"),
        (b"\xef\xbb\xbf#EXTM3U\n", "a playlist (M3U8)"),
        (b"\n#extm3u\n", "a playlist (M3U8)"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "an ffconcat script"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "a session description (SDP)"),
        (b"[playlist]\nFile1=http://x\n", "a playlist (PLS)"),
        (b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">', "a DASH manifest"),
        (b"<MPD>", "a DASH manifest"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
        (b'<?xml version="1.0"?><!-- x --><svg >', "SVG"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\n\n<html><head>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b'{"error": "not found"}', "JSON"),
        (zipped(), "a ZIP archive"),
        (b"\x1f\x8b\x08\x00", "gzip-compressed data"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\x7fELF\x02\x01", "a program"),
        (b"\x00\x00\x01\xba\x44", "an MPEG program stream"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer instead of the file itself"),
        (b"\x00" * 100, "nothing that is known here"),
        (bytes(range(256)), "nothing that is known here"),
        (b"\xff\xfb", "nothing that is known here"),
        (b"RIFF\x00\x00\x00\x00CDDA", "nothing that is known here"),
        (b"BM is how this text begins, it is no picture", "text"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88 somewhat", "nothing that is known here"),
    ],
)
def test_everything_else_is_refused_by_a_name(data, looks_like):
    found = look(data)
    assert (found.container, found.looks_like) == (None, looks_like)
    assert not any(found.may_be(kind) for kind in MediaKind)


MAGIC = (b"", b"RIFF", b"\x00\x00\x00\x20ftyp", b"ID3\x03", b"\xff\xf1", b"<", b"G", b"\x1a\x45\xdf\xa3")


@given(st.binary(max_size=600), st.sampled_from(MAGIC))
def test_any_bytes_have_a_printable_description_and_a_known_container_or_none(tail, magic):
    found = look(magic + tail)
    assert found.container is None or found.container in KINDS
    assert found.looks_like.isprintable()
    assert found.looks_like


@given(st.text("abc \n<>{}[]#=v0/:", max_size=200))
def test_no_text_passes_for_media(text):
    assert look(text.encode()).container is None


def test_every_container_that_types_lists_is_known_and_every_moving_one_has_a_demuxer():
    source = inspect.getsource(Fetched)
    documented = re.search(r'container: str\n    """By magic bytes: (.*?)\."""', source, re.DOTALL)
    assert set(re.findall(r"[a-z0-9]{2,}", documented[1])) == set(KINDS)
    assert {name for name, kinds in KINDS.items() if kinds != {MediaKind.IMAGE}} == set(DEMUXERS)
