"""The codecs of a file by its own words: what FFmpeg can't tell of tracks for which it has no decoder."""

import re

import numpy as np
from numpy.typing import NDArray

_MATROSKA_MAGIC = b"\x1a\x45\xdf\xa3"
_MATROSKA = re.compile(rb"\x86[\x82-\xa8]([VA]_[A-Z0-9/_.-]{1,38})")
"""The element CodecID."""
_MP4 = re.compile(rb"stsd.{12}([ -~]{4})", re.DOTALL)
"""The name of the first description of a track's samples."""
_MOST = 4


def codec_names(data: NDArray[np.uint8]) -> tuple[str, ...]:
    """Of the tracks of the MP4 or Matroska file `data`, uint8 of shape (size,), in their order; the first few.

    Looks at all of the file: for error messages. Empty for files of other kinds.
    """
    pattern = _MATROSKA if data[:4].tobytes() == _MATROSKA_MAGIC else _MP4
    found = (match[1].decode("ascii").strip() for match in pattern.finditer(data.data))
    return tuple(name for name, _ in zip(found, range(_MOST), strict=False))
