"""Videos that stay with their host: the index is read, then only what the wanted frames lean on.

The same frames, bit for bit, as of the whole file, or the answer that the whole file is needed.
"""

import functools
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.backlog import VideoWork
from deployments.decoder.demux import Sound, VideoFile, ready_stream
from deployments.decoder.limits import Limits
from deployments.decoder.mp4_index import NoIndex, boxes, read_index
from deployments.decoder.reader import FramesMissing, VideoRead, VideoReader
from deployments.decoder.remote import RangesNotServed, RemoteBytes, RemotePackets
from deployments.errors import BadMedia
from deployments.media.container import open_container
from deployments.media.mp4 import MAX_INDEX_BYTES
from deployments.types import VideoTask, WholeNeeded

_HOPS = 8
"""Boxes that are jumped over on the way to the index."""
_STEP_BYTES = 256 * 2**10
"""Read at once while the index is looked for."""
_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "libdav1d"})
"""FFmpeg's names of codecs whose packets, cut out by the index, decode as they do when its demuxer reads them."""


class SparseReader:
    """Keeps nothing of what it reads: `read` may run on several threads at once."""

    def __init__(self, config: DecoderConfig, videos: VideoReader) -> None:
        self._config = config
        self._videos = videos

    def read(
        self,
        task: VideoTask,
        open_remote: Callable[[Deadline], RemoteBytes],
        deadline: Deadline,
        head: NDArray[np.uint8],
        work: VideoWork,
    ) -> VideoRead | WholeNeeded:
        """As `VideoReader.read`; `head`: the file's first bytes. Raises also what the fetcher raises."""
        work.began = time.monotonic()
        if self._config.backend == "opencv" or task.audio_rate_hz is not None:
            return WholeNeeded("its sound is wanted, or its frames from a backend that reads whole files")
        remote = open_remote(deadline)
        try:
            header, moov = find_index(remote, head.tobytes())
            return self._read(task, remote, np.frombuffer(header + moov, np.uint8), moov, work, deadline)
        except NoIndex as why:
            return WholeNeeded(str(why))
        except FramesMissing:
            return WholeNeeded("its packets are not what its index promises")
        except RangesNotServed:
            return WholeNeeded("its host has no ranges")
        finally:
            remote.close()

    def _read(
        self,
        task: VideoTask,
        remote: RemoteBytes,
        index_file: NDArray[np.uint8],
        moov: bytes,
        work: VideoWork,
        deadline: Deadline,
    ) -> VideoRead:
        limits = Limits(self._config, task.label, work)
        reopen = functools.partial(open_container, index_file, "mp4", task.label, limits.max_source_pixels, deadline)
        with reopen() as opened:
            stream = ready_stream(opened, index_file, task.label, self._config.threads, limits)
            if stream.codec_context.name not in _CODECS:
                raise NoIndex("its codec is read from whole files only")
            index = read_index(stream, moov)
            limits.check_packets(len(index.sizes), remote.file.size_bytes)
            if int(index.starts.min()) < 0 or int((index.starts + index.sizes).max()) > remote.file.size_bytes:
                raise BadMedia("the file is damaged: its index names bytes behind its end", param=task.label)
            first_shown_s = float(index.table.pts[~index.table.is_hidden].min() * stream.time_base)
            packets = RemotePackets(remote, index, stream)
            sound = Sound(opened, index_file, task, limits)
            video = VideoFile(index_file, stream, packets, index.table, sound, first_shown_s, reopen)
            return self._videos.take(video, task, limits, deadline, may_scan=False)


def find_index(remote: RemoteBytes, head: bytes) -> tuple[bytes, bytes]:
    """The boxes `ftyp` and `moov`. Raises `NoIndex`."""
    size = remote.file.size_bytes
    kept, at, known = b"", 0, head
    for _ in range(_HOPS):
        base = at
        for name, start, _, end in boxes(known):
            if base + end > size:
                raise NoIndex("its boxes reach behind its end")
            if name == b"moov":
                if end - start > MAX_INDEX_BYTES:
                    raise NoIndex("its index is too large")
                return kept, _completed(remote, known, base, start, end)
            if name == b"ftyp":
                kept = _completed(remote, known, base, start, min(end, start + _STEP_BYTES))
            if name == b"moof":
                raise NoIndex("its index is fragmented")
            at = base + end
        if at == base or at + 8 > size:
            break
        known = remote.read(at, min(size, at + _STEP_BYTES))
    raise NoIndex("its index was not found")


def _completed(remote: RemoteBytes, known: bytes, base: int, start: int, end: int) -> bytes:
    """Bytes `start` to `end` of `known`, which begins at `base` of the file, and what it lacks of them."""
    missing = remote.read(base + max(start, len(known)), base + end) if end > len(known) else b""
    return known[start:end] + missing
