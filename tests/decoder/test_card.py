"""A card's decoder gives the CPU's frames, as far as it goes; where it doesn't, the CPU does.

No card is needed: a decoder of the CPU's stands in for the card's, and lays frames out as cards do.
"""

import dataclasses
import logging
from contextlib import contextmanager

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.pyav_backend import PyavBackend
from deployments.decoder.reader import VideoReader
from deployments.media.container import prepare_decoder
from deployments.types import PatchRule, ResizeRule
from tests.decoder.reading import read, task
from tests.support.media_files import make_video

LAYOUTS = {"yuv420p": "nv12", "yuv420p10le": "p010le"}
CLIPS = {
    "H.264": {},
    "ten bits": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "VP9": {"codec": "libvpx-vp9", "container": "webm"},
}
PLAIN = task(8)
SMALLER = task(8, resize=ResizeRule("frame", factor=32, min_pixels=32 * 32, max_pixels=64 * 96))
PATCHES = dataclasses.replace(SMALLER, patches=PatchRule(patch=16, merge=2, temporal=2))


class LikeACard:
    """`after`: the number of packets after which it has no memory left; `loses`: of so many frames all but one."""

    def __init__(self, *, after: int | None = None, loses: int = 1) -> None:
        self._after, self._loses = after, loses
        self.decoded = 0

    @contextmanager
    def decoder_of(self, video):
        with video.reopen() as opened:
            stream = opened.streams[video.stream.index]
            prepare_decoder(stream, 1)
            self._context = stream.codec_context
            yield self

    @property
    def name(self):
        return self._context.name

    @property
    def skip_frame(self):
        return self._context.skip_frame

    @skip_frame.setter
    def skip_frame(self, which):
        self._context.skip_frame = which

    def flush_buffers(self):
        self._context.flush_buffers()

    def decode(self, packet):
        if packet is not None and self._after is not None:
            self._after -= 1
            if self._after < 0:
                raise av.error.MemoryError(12, "Cannot allocate memory")
        frames = self._context.decode(packet)
        self.decoded += len(frames)
        return [self._handed_over(frame) for n, frame in enumerate(frames, self.decoded) if n % self._loses == 0]

    @staticmethod
    def _handed_over(frame):
        return VideoReformatter().reformat(frame, format=LAYOUTS[frame.format.name])


class NoDecoder:
    @contextmanager
    def decoder_of(self, video):
        yield None


def by_card(data, what, card):
    reader = VideoReader(DecoderConfig(), PyavBackend(1, card))
    return reader.read(what, np.frombuffer(data, np.uint8), Deadline(30, "decode"))


def same(one, other):
    return one.payload.keys() == other.payload.keys() and all(
        np.array_equal(one.payload[name], other.payload[name]) for name in one.payload
    )


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("what", [PLAIN, SMALLER, PATCHES], ids=["as they are", "smaller", "patches"])
def test_frames_of_a_card_are_the_cpus_bit_for_bit(clip, what):
    data, card = make_video(40, **CLIPS[clip]), LikeACard()
    got, wanted = by_card(data, what, card), read(data, what)
    assert same(got, wanted)
    assert (got.meta.backend, got.meta.lost_frames) == ("cuda", 0)
    assert got.frames_decoded == card.decoded == wanted.frames_decoded  # none of them by the CPU


CARDS = {"full": LikeACard(after=11), "gaps": LikeACard(loses=2), "no room": LikeACard(after=0), "none": NoDecoder()}


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_what_a_card_leaves_out_the_cpu_decodes(card):
    data = make_video(40)
    assert same(by_card(data, PLAIN, card), read(data, PLAIN))


def test_without_a_card_the_cpu_decodes_and_the_log_says_so_once(monkeypatch, caplog):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    data = np.frombuffer(make_video(40), np.uint8)
    with caplog.at_level(logging.WARNING):
        reader = VideoReader(DecoderConfig(backend="cuda"))
        got = [reader.read(PLAIN, data, Deadline(30, "decode")) for _ in range(2)]
    assert [(one.meta.backend, same(one, read(data.tobytes(), PLAIN))) for one in got] == [("pyav", True)] * 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the CPU decodes" in caplog.text
