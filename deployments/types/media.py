"""Media on their way from the ingress to the fetcher and the decoder, and back.

Shape legend: T frames (or tokens, where a name says so), H height, W width, C channels; all pixels are RGB.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from deployments.types.names import CacheUse, MediaKind


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One thing to fetch, as the client named it."""

    kind: MediaKind
    """What the content part says it is. The fetcher refuses bytes that are something else."""
    label: str
    """Where it stands in the request, for errors: `messages[1].content[0]`."""
    url: str | None
    """`http:`, `https:` or `file:` URL; None when a `data:` URL's text travels beside as payload (uint8, ASCII)."""
    client: str = ""
    """Whose request it is: nobody gets more than a share of connections, look-ups and room."""
    embeds: bool = False
    """Whether the bytes are encoder outputs of such an item (safetensors) instead of the item."""
    cache: bool = True
    """Whether what was fetched before may answer, and this may be kept for later."""
    known: tuple[str, ...] = ()
    """Digests of contents that the caller has no use for: it has what is made of them. Their bytes are not sent."""
    confirmed: str = ""
    """Digest of the content that the caller was told a moment ago: the host is not asked for it once more."""
    in_parts: bool = False
    """Whether a large file may stay where it is, to be read by ranges (`Fetched.remote`)."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that stays with its host and is read by ranges, through the fetcher alone."""

    url: str = field(repr=False)
    """After redirects; its query may hold a signature."""
    version: str
    """What `If-Range` names: a strong ETag, or the date of the last change."""
    size_bytes: int
    max_read_bytes: int
    """What may be read of it in all."""
    client: str = ""
    """As in `MediaItem`; of whoever reads it, as is `key`."""
    key: str = ""
    """The fetch's own: ranges are asked for where it was answered, and where connections to the host are open."""


@dataclass(frozen=True, slots=True)
class RangesRead:
    """Of `MediaFetcher.read_ranges`; its payload is the ranges one after the other, one uint8 array."""

    size_bytes: int
    fetch_s: float
    refused: bool = False
    """The host does not keep to ranges: nothing was read."""


@dataclass(frozen=True, slots=True)
class WholeNeeded:
    """Of `VideoDecoder.decode_remote` in place of frames: the file can't be read in parts, or it would not pay."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """Of `MediaFetcher.fetch`; its payload is the item's bytes as one uint8 array of shape (size_bytes,), which is left
    out for contents that are `known`."""

    kind: MediaKind
    container: str
    """By magic bytes: `jpeg png webp gif bmp tiff heic avif`, `mp4 matroska avi mpegts flv`, `wav flac ogg mp3 aac`."""
    size_bytes: int
    final_url: str | None
    """After redirects, without credentials; None for `data:`."""
    fetch_s: float
    """Seconds inside the fetcher."""
    digest: str = ""
    """SHA-256 of the bytes, hexadecimal; empty where nothing is kept by it."""
    cache: CacheUse = CacheUse.OFF
    """Where the bytes came from."""
    remote: RemoteFile | None = None
    """Set for a file that is to be read by ranges: the payload is its beginning only, and nobody knows its digest."""
    pixels: int = 0
    """Height x width of a picture, by its header; 0 where that does not tell, and of other kinds."""

    @property
    def file_bytes(self) -> int:
        """Size of the file, wherever the most of it is."""
        return self.size_bytes if self.remote is None else self.remote.size_bytes


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """Which frames a request wants, within the server's limits. Exactly one of `num_frames`, `fps` is set."""

    num_frames: int | None
    """This many, uniformly over the span; fewer when the video has fewer."""
    fps: float | None
    """One frame each 1/fps seconds of the video's own time line."""
    max_frames: int
    min_frames: int = 1
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class ResizeRule:
    """How the model's video processor derives the size of its frames; pure data, applied by `media.geometry`.

    `frame`: multiples of `factor` with min_pixels <= H*W <= max_pixels. `clip`: the same for T*H*W, T rounded to a
    multiple of `temporal_factor`. `exact`: `height` x `width`.
    """

    kind: Literal["frame", "clip", "exact"]
    factor: int = 1
    temporal_factor: int = 1
    min_pixels: int = 0
    max_pixels: int = 0
    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True)
class PatchRule:
    """How the model's video processor cuts frames into the rows of its tensor; pure data, applied by `media.patches`.

    A row holds `temporal` frames of a square of `patch` pixels, channel after channel; squares of `merge` x `merge`
    patches stand together.
    """

    patch: int
    merge: int
    temporal: int


@dataclass(frozen=True, slots=True)
class VideoTask:
    """What `VideoDecoder.decode` is asked for, beside the bytes."""

    label: str
    sampling: FrameSampling
    resize: ResizeRule | None
    """Deliver frames at this size; None for the source's size."""
    audio_rate_hz: int | None
    """Deliver the audio track at this rate; None when it is not wanted."""
    patches: PatchRule | None = None
    """Deliver frames that have the size of `resize` as the model's own tensor; None for frames as such."""


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """Of `VideoDecoder`; payload {"frames_THWC": uint8 RGB contiguous, "audio": float32 (samples,) when asked for}.

    With `patch_grid` set "patches", uint8 (rows, values of a row), takes the place of "frames_THWC". A video without an
    audio track delivers an empty `audio`.
    """

    source_fps: float
    """Mean frame rate by timestamps; 1.0 for a lone frame and for lists of pictures without a rate."""
    duration_s: float
    total_frames: int
    indices: tuple[int, ...]
    """Display-order numbers of the frames delivered, ascending."""
    timestamps_s: tuple[float, ...]
    """Presentation times of the frames delivered, relative to the first frame of the file."""
    source_height: int
    source_width: int
    """As displayed: after rotation."""
    rotation_deg: int
    """Anticlockwise rotation which was applied: 0, 90, 180, 270."""
    backend: str
    lost_frames: int
    """Frames wanted which could not be decoded."""
    decode_s: float
    payload_bytes: int = 0
    patch_grid: tuple[int, int, int] | None = None
    """Rows of patches over time, height and width, when the payload is cut into them; the last frame then stands twice
    or more where there are too few for the last rows."""
    later: "tuple[GroupTask, ...]" = ()
    """Not empty where the payload is the first group of patches alone, and these are the others, each to be had of
    `VideoDecoder.decode_group`. What is told here is then of all of them, and a promise: it was told before."""

    @property
    def patches_shape(self) -> tuple[int, int]:
        """Of "patches", the whole payload."""
        assert self.patch_grid is not None, "the payload is frames"
        rows = math.prod(self.patch_grid)
        return rows, self.payload_bytes // max(rows, 1)


@dataclass(frozen=True, slots=True)
class PartTask:
    """Some of the frames of a video, for another decoder. Numbers are those of packets of the file's video track."""

    packets: tuple[int, ...]
    """Whose frames are wanted, in their order of display."""
    runs: tuple[tuple[int, int], ...]
    """First and last (exclusive) packet of each run that is decoded for them, in decode order."""
    clip_frames: int
    """Of the whole video: the size of each may depend on their number."""


@dataclass(frozen=True, slots=True)
class GroupTask:
    """Some frames of a video that make whole rows of patches; the answer is {"patches"} of these, or `MediaLost`."""

    part: PartTask
    clip: str
    """Names the video: groups of one are decoded one after the other by a replica."""
    source_height: int
    source_width: int
    rotation_deg: int
    """As the first group has them."""


@dataclass(frozen=True, slots=True)
class PartReply:
    """First of `VideoDecoder.decode_part`, at once; nothing follows where the part is not taken."""

    taken: bool


@dataclass(frozen=True, slots=True)
class DecodedPart:
    """Second of `VideoDecoder.decode_part`; payload {"frames_THWC": uint8 RGB} or {"planes_TCHW": the same pixels}."""

    kept: tuple[int, ...]
    """Places in `PartTask.packets` of the frames that came out."""
    source_height: int
    source_width: int
    rotation_deg: int
    """As in `DecodedVideo`."""
