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

MAX_RATE_HZ = 768_000
MAX_CHANNELS = 16

_INTERLEAVED = "flt"
"""Of one plane each, PyAV reads and writes beyond the eighth channel, whether there are more or not."""
_FILTER_S = 0.1
"""Far longer than the resampler's filter, whatever the rates."""


class MonoTrack:
    """Takes decoded audio frames in order, gives the mean of their channels at `rate_hz`."""

    def __init__(self, rate_hz: int, max_s: float, label: str) -> None:
        self._rate_hz = rate_hz
        self.max_s = max_s
        self._label = label
        self._source: tuple[int, str, str] | None = None
        self._resampler: AudioResampler | None = None
        self._held: list[av.AudioFrame] = []
        """The beginning of what has this source, until there is enough for the resampler's filter."""
        self._chunks: list[NDArray[np.float32]] = []
        self._samples = 0

    @property
    def seconds(self) -> float:
        """What was taken so far."""
        return self._samples / self._rate_hz

    def add(self, frame: av.AudioFrame) -> None:
        """The next frame. Raises `TooLarge` beyond `max_s` seconds, `BadMedia` for rates and layouts nobody has."""
        source = (frame.sample_rate, frame.format.name, frame.layout.name)
        if source != self._source:  # the first frame, or a stream that changes its mind (HE-AAC does)
            self._drain()
            self._check_source(frame)
            self._source, self._resampler = source, None
        if self._resampler is not None:
            self._keep(frame)
            return
        self._held.append(frame)
        if sum(held.samples for held in self._held) >= _FILTER_S * frame.sample_rate:
            self._resampler, held = self._new_resampler(), self._held
            self._held = []
            for frame in held:
                self._keep(frame)

    def finish(self) -> NDArray[np.float32]:
        """All of it, shape (samples,). Raises `BadMedia` for numbers that are not finite, `TooLarge` as `add` does."""
        self._drain()
        track = np.concatenate(self._chunks) if self._chunks else np.empty(0, np.float32)
        if not np.isfinite(track).all():
            raise BadMedia("the sound has samples that are not finite numbers", param=self._label)
        return track

    def _check_source(self, frame: av.AudioFrame) -> None:
        rate_hz, channels = frame.sample_rate, frame.layout.nb_channels
        if not 1 <= rate_hz <= MAX_RATE_HZ or not 1 <= channels <= MAX_CHANNELS:
            raise BadMedia(
                f"{rate_hz} Hz with {channels} channels is not read: "
                f"up to {MAX_RATE_HZ} Hz and {MAX_CHANNELS} channels are",
                param=self._label,
            )

    def _drain(self) -> None:
        if self._resampler is not None:
            self._keep(None)
        if not self._held:
            return
        # The resampler gives too little, or nothing, of what is shorter than its filter: silence makes it long enough.
        frames, self._held = self._held, []
        length = max(1, round(sum(frame.samples for frame in frames) * self._rate_hz / frames[0].sample_rate))
        resampler, frames = self._new_resampler(), _interleaved(frames)
        padded = [piece for frame in (*frames, _silence_like(frames[0]), None) for piece in _run(resampler, frame)]
        self._append(np.concatenate(padded)[:length])

    def _new_resampler(self) -> AudioResampler:
        return AudioResampler(format=_INTERLEAVED, layout=None, rate=self._rate_hz)

    def _keep(self, frame: av.AudioFrame | None) -> None:
        assert self._resampler is not None
        for samples in _run(self._resampler, frame):
            self._append(samples)

    def _append(self, samples: NDArray[np.float32]) -> None:
        self._samples += len(samples)
        check_duration(self.seconds, self.max_s, self._label)
        self._chunks.append(samples)


def _run(resampler: AudioResampler, frame: av.AudioFrame | None) -> list[NDArray[np.float32]]:
    """What comes out when `frame` goes in; None ends it. Each piece is the mean of its channels."""
    pieces = [piece for piece in resampler.resample(frame) if piece is not None and piece.samples]
    return [piece.to_ndarray().reshape(-1, piece.layout.nb_channels).mean(axis=1, dtype=np.float32) for piece in pieces]


def _interleaved(frames: list[av.AudioFrame]) -> list[av.AudioFrame]:
    """The same samples at the same rate."""
    packer = AudioResampler(format=_INTERLEAVED, layout=None, rate=frames[0].sample_rate)
    return [piece for frame in (*frames, None) for piece in packer.resample(frame) if piece is not None]


def _silence_like(frame: av.AudioFrame) -> av.AudioFrame:
    """As long as the resampler's filter; `frame` is interleaved."""
    silence = av.AudioFrame(_INTERLEAVED, frame.layout.name, samples=int(frame.sample_rate * _FILTER_S) + 1)
    silence.sample_rate = frame.sample_rate
    (plane,) = silence.planes
    plane.update(bytes(plane.buffer_size))
    return silence


def check_duration(seconds: float, max_s: float, label: str) -> None:
    """Raise `TooLarge` above `max_s`."""
    if seconds > max_s:
        raise TooLarge(f"the sound is longer than {max_s:g} s, the limit", param=label)
