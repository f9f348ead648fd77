"""What one video may cost, checked before the cost is paid. Messages name the limit; errors name the item."""

from deployments.config import DecoderConfig
from deployments.decoder.backlog import VideoWork
from deployments.errors import TooLarge

MAX_PACKETS = 650_000
"""Frames of one file: three hours at 60 a second."""
MIN_PACKET_BYTES = 12
"""Of a file for each of its frames: a frame in which nothing changes takes about 30, its place in an index included."""
_FEW_PACKETS = 10_000
"""Frames of any file, however small they are."""


class Limits:
    """The operator's limits, for the item called `label`. Every method raises `TooLarge`."""

    def __init__(self, config: DecoderConfig, label: str, work: VideoWork | None = None) -> None:
        """`work`: where to write down what `accept_work` allows."""
        self._config = config
        self._label = label
        self.work = work or VideoWork()

    @property
    def max_source_pixels(self) -> int:
        return self._config.max_source_pixels

    @property
    def max_audio_s(self) -> float:
        return self._config.max_audio_s

    def check_source(self, height: int, width: int) -> None:
        """Size of the file's frames in pixels."""
        limit = self._config.max_source_pixels
        self._refuse_if(
            height * width > limit, f"its frames have {width} x {height} pixels, the limit is {limit} in all"
        )

    def check_packets(self, packets: int, file_bytes: int) -> None:
        """Frames read so far of a file of that size."""
        self._refuse_if(packets > MAX_PACKETS, f"it has more than {MAX_PACKETS} frames, the limit")
        few = _FEW_PACKETS + file_bytes // MIN_PACKET_BYTES
        self._refuse_if(packets > few, f"it has more than a frame for each {MIN_PACKET_BYTES} of its bytes, the limit")

    def check_duration(self, seconds: float) -> None:
        limit = self._config.max_duration_s
        self._refuse_if(seconds > limit, f"it is {seconds:.0f} s long, the limit is {limit:g} s")

    def accept_work(self, frames: int, height: int, width: int) -> None:
        """Frames that the codec would have to decode."""
        megapixels, limit = frames * height * width / 1e6, self._config.max_decode_megapixels
        self._refuse_if(
            megapixels > limit,
            f"its wanted frames take {megapixels:.0f} megapixels of decoding, the limit is {limit}: "
            "ask for a shorter span or a smaller video",
        )
        self.work.megapixels = megapixels

    def check_output(self, frames: int, height: int, width: int) -> None:
        """Frames that would be delivered."""
        size, limit = frames * height * width * 3, self._config.max_output_bytes
        self._refuse_if(
            size > limit,
            f"{frames} frames of {width} x {height} pixels are {size} bytes, the limit is {limit}: ask for fewer",
        )

    def _refuse_if(self, exceeded: bool, what: str) -> None:
        if exceeded:
            raise TooLarge(f"the video is too large: {what}", param=self._label)
