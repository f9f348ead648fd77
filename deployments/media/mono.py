"""A track of samples on its way to what models hear: one channel, float32, one rate, no longer than allowed.

The layout is kept while resampling (with an anti-aliasing filter) and the channels are averaged afterwards: FFmpeg's
own mix to mono is louder than their mean. What is counted is what comes out, so that a file can't promise little and
deliver much.
"""

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from deployments.errors import BadMedia, TooLarge


class MonoTrack:
    """Takes decoded audio frames in order, gives the mean of their channels at `rate_hz`."""

    def __init__(self, rate_hz: int, max_s: float, label: str) -> None:
        self._rate_hz = rate_hz
        self._max_s = max_s
        self._label = label
        self._source: tuple[int, str, str] | None = None
        self._resampler: AudioResampler | None = None
        self._chunks: list[NDArray[np.float32]] = []
        self._samples = 0

    @property
    def seconds(self) -> float:
        """What was taken so far."""
        return self._samples / self._rate_hz

    def add(self, frame: av.AudioFrame) -> None:
        """The next frame. Raises `TooLarge` beyond `max_s` seconds."""
        source = (frame.sample_rate, frame.format.name, frame.layout.name)
        if source != self._source:  # the first frame, or a stream that changes its mind (HE-AAC does)
            self._drain()
            self._source = source
            # Channels interleaved: of one plane each, PyAV reads beyond the eighth, whether there are more or not.
            self._resampler = AudioResampler(format="flt", layout=None, rate=self._rate_hz)
        self._keep(frame)

    def finish(self) -> NDArray[np.float32]:
        """All of it, shape (samples,). Raises `BadMedia` for numbers that are not finite, `TooLarge` as `add` does."""
        self._drain()
        track = np.concatenate(self._chunks) if self._chunks else np.empty(0, np.float32)
        if not np.isfinite(track).all():
            raise BadMedia("the sound has samples that are not finite numbers", param=self._label)
        return track

    def _drain(self) -> None:
        if self._resampler is not None:
            self._keep(None)

    def _keep(self, frame: av.AudioFrame | None) -> None:
        assert self._resampler is not None
        for piece in self._resampler.resample(frame):
            if piece is None:  # what a resampler with nothing to do makes of the end
                continue
            self._samples += piece.samples
            check_duration(self.seconds, self._max_s, self._label)
            samples = piece.to_ndarray().reshape(-1, piece.layout.nb_channels)
            self._chunks.append(samples.mean(axis=1, dtype=np.float32))


def check_duration(seconds: float, max_s: float, label: str) -> None:
    """Raise `TooLarge` above `max_s`."""
    if seconds > max_s:
        raise TooLarge(f"the sound is longer than {max_s:g} s, the limit", param=label)
