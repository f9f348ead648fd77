"""What a file is, by its first bytes. A pure function; a URL, a header and a file name prove nothing.

Only the containers that the stages mean to read have a name here. Everything else is refused before a demuxer sees it:
FFmpeg follows playlists, session descriptions and scripts to local files and other hosts.
"""

import codecs
import re
from dataclasses import dataclass

from deployments.types import MediaKind

HEAD_BYTES = 4096
"""As much of a file's beginning as `sniff` looks at."""

_IMAGE = frozenset({MediaKind.IMAGE})
_AUDIO = frozenset({MediaKind.AUDIO})
_MOVING = frozenset({MediaKind.VIDEO, MediaKind.AUDIO})
"""Containers whose audio track alone may be meant."""

KINDS = {
    **dict.fromkeys(("jpeg", "png", "webp", "gif", "bmp", "tiff", "heic", "avif"), _IMAGE),
    **dict.fromkeys(("mp4", "matroska", "avi", "mpegts", "flv"), _MOVING),
    **dict.fromkeys(("wav", "flac", "ogg", "mp3", "aac"), _AUDIO),
}
"""As what the items of each container may be sent."""


@dataclass(frozen=True, slots=True)
class Sniffed:
    """`container` is a key of `KINDS`, or None for what is not read; `looks_like` completes "its bytes look like"."""

    container: str | None
    looks_like: str

    def may_be(self, kind: MediaKind) -> bool:
        return self.container is not None and kind in KINDS[self.container]


_NAMES = {
    "jpeg": "a JPEG picture",
    "png": "a PNG picture",
    "webp": "a WebP picture",
    "gif": "a GIF picture",
    "bmp": "a BMP picture",
    "tiff": "a TIFF picture",
    "heic": "a HEIC picture",
    "avif": "an AVIF picture",
    "mp4": "an MP4 or QuickTime file",
    "matroska": "a Matroska or WebM file",
    "avi": "an AVI video",
    "mpegts": "an MPEG transport stream",
    "flv": "a Flash video",
    "wav": "a WAV sound",
    "flac": "a FLAC sound",
    "ogg": "an Ogg sound",
    "mp3": "an MP3 sound",
    "aac": "an AAC sound",
}

_MP3_RATES = bytes(rate for rate in range(0x10, 0xF0) if rate & 0x0C != 0x0C)
"""Third bytes of MP3 frame headers: neither bit rate nor sample rate is a reserved one."""
_MP3_HEADER = re.compile(rb"\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd][%b]" % re.escape(_MP3_RATES))
_MP3_KBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Layer III's bit rates, by version: MPEG-1, or 2 and 2.5."""
_MP3_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Sample rates by a header's bits for the version."""
_PADDING = re.compile(rb"\0{16,}")

_MAGIC = (
    (re.compile(rb"\xff\xd8\xff"), "jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"GIF8[79]a"), "gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    (re.compile(rb"RIFF....AVI |RIFF....AVIX", re.DOTALL), "avi"),
    (re.compile(rb"(?:RIFF|RF64|BW64)....WAVE", re.DOTALL), "wav"),
    (re.compile(rb"II\x2a\x00|MM\x00\x2a"), "tiff"),
    # The size of BMP's second header tells it from a text that begins with "BM".
    (re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", re.DOTALL), "bmp"),
    (re.compile(rb"....ftyp", re.DOTALL), "mp4"),  # pictures among them: see _by_brand
    (re.compile(rb"....(?:moov|mdat|wide|free|skip|pnot|styp)", re.DOTALL), "mp4"),  # QuickTime older than ftyp
    (re.compile(rb"\x1a\x45\xdf\xa3.{0,64}?\x42\x82.{1,8}?(?:matroska|webm)", re.DOTALL), "matroska"),
    (re.compile(rb"FLV\x01"), "flv"),
    (re.compile(rb"fLaC"), "flac"),
    (re.compile(rb"OggS\x00"), "ogg"),
    (re.compile(rb"\x47.{187}\x47.{187}\x47|.{4}\x47.{191}\x47.{191}\x47", re.DOTALL), "mpegts"),
    (re.compile(rb"ID3[\x02-\x04]"), "mp3"),
    # Frame headers: a sync word, then the layer: 0 for AAC, III and II for what is called MP3.
    (re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), "aac"),
    (_MP3_HEADER, "mp3"),
)

_REFUSED = (
    (re.compile(rb"\s*#EXTM3U", re.IGNORECASE), "a playlist (M3U8)"),
    (re.compile(rb"\s*ffconcat\s", re.IGNORECASE), "an ffconcat script"),
    (re.compile(rb"\s*v=0\s*[\r\n]"), "a session description (SDP)"),
    (re.compile(rb"\s*\[playlist\]", re.IGNORECASE), "a playlist (PLS)"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer instead of the file itself"),
    (re.compile(rb".{0,1024}?<MPD[\s>]", re.DOTALL), "a DASH manifest"),
    (re.compile(rb"\s*(?:<\?xml.{0,1024}?|<!--.{0,1024}?)?(?:<!doctype svg.{0,512}?)?<svg[\s>]", re.DOTALL), "SVG"),
    (re.compile(rb".{0,1024}?<(?:!doctype html|html|head|body)[\s>]", re.DOTALL | re.IGNORECASE), "an HTML page"),
    (re.compile(rb"\s*<"), "XML"),
    (re.compile(rb"\s*[{\[]\s*[\"{\[\]}]"), "JSON"),
    (re.compile(rb"PK\x03\x04|PK\x05\x06"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "gzip-compressed data"),
    (re.compile(rb"BZh|\xfd7zXZ\x00|7z\xbc\xaf\x27\x1c|Rar!|\x28\xb5\x2f\xfd"), "an archive"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"\x7fELF|MZ"), "a program"),
    (re.compile(rb"\x00\x00\x01[\xb3\xba]"), "an MPEG program stream"),
    (re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), "an ASF or WMV file"),
    (re.compile(rb"\.RMF"), "a RealMedia file"),
    (re.compile(rb"FORM....AIF[FC]", re.DOTALL), "an AIFF sound"),
    (re.compile(rb"#!AMR"), "an AMR sound"),
    (re.compile(rb"MThd"), "a MIDI file"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "a JPEG XL picture"),
    (re.compile(rb"\x00\x00\x00\x0cjP  "), "a JPEG 2000 picture"),
    (re.compile(rb"8BPS"), "a Photoshop file"),
    (re.compile(rb"\x00\x00\x01\x00"), "an icon"),
)

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"})


def sniff(head: bytes) -> Sniffed:
    """What a file is whose first `HEAD_BYTES` bytes (fewer, if it is shorter) are `head`."""
    if not head:
        return Sniffed(None, "nothing: there are none")
    for pattern, container in _MAGIC:
        if pattern.match(head):
            container = _by_brand(head) if head[4:8] == b"ftyp" else container
            return Sniffed(container, _NAMES[container])
    if _is_padded_mp3(head):
        return Sniffed("mp3", _NAMES["mp3"])
    text = head.removeprefix(codecs.BOM_UTF8)
    for pattern, looks_like in _REFUSED:
        if pattern.match(text):
            return Sniffed(None, looks_like)
    return Sniffed(None, "text" if _is_text(head) else "nothing that is known here")


def _is_padded_mp3(head: bytes) -> bool:
    """Whether two frames of MP3, one behind the other, follow zeros and the end of a frame that was cut."""
    padding = _PADDING.match(head)
    for found in _MP3_HEADER.finditer(head, padding.end()) if padding else ():
        second, third = found[0][1:]
        if second >> 1 & 3 != 1:  # not layer III
            continue
        version = second >> 3 & 3
        kbits, rate_hz = _MP3_KBITS[1 if version == 3 else 2][third >> 4], _MP3_HZ[version][third >> 2 & 3]
        size = (144_000 if version == 3 else 72_000) * kbits // rate_hz + (third >> 1 & 1)
        following = _MP3_HEADER.match(head, found.start() + size)
        if following and following[0][1] == second and following[0][2] & 0x0C == third & 0x0C:
            return True
    return False


def _by_brand(head: bytes) -> str:
    """An ISO media file's container by the brands in its first box: pictures share it with videos."""
    size = min(int.from_bytes(head[:4], "big"), 256)
    major, compatible = head[8:12], {head[i : i + 4] for i in range(16, size, 4)}
    if major in _AVIF_BRANDS or (major in (b"mif1", b"msf1") and compatible & _AVIF_BRANDS):
        return "avif"
    return "heic" if major in _HEIC_BRANDS else "mp4"


def _is_text(head: bytes) -> bool:
    """UTF-8, or UTF-16 by its mark, without control characters. The last character may be cut."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return False
    return not any(c < " " and c not in "\t\n\r\f\x1b" for c in text)


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of a header, then the header, which is JSON."""
    return len(head) > 8 and not any(head[4:8]) and head[8:9] == b"{"
