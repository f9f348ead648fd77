"""Which frames are asked of the decoder."""

from dataclasses import replace
from typing import Any

import pytest

from deployments.config import DecoderConfig
from deployments.errors import BadRequest
from deployments.ingress.pipeline.frames import frame_sampling
from deployments.ingress.request import ItemPlan, Source
from deployments.ingress.wire import NO_FRAME_OPTIONS, FrameOptions
from deployments.types import FrameSampling, MediaItem, MediaKind
from tests.support.fakes import PROFILE

SERVER = DecoderConfig(max_frames=32)


def sampling(
    part: FrameOptions = NO_FRAME_OPTIONS,
    request: FrameOptions = NO_FRAME_OPTIONS,
    server: DecoderConfig = SERVER,
    list_of: int = 0,
    family: dict[str, Any] | None = None,
) -> FrameSampling:
    source = Source(MediaItem(MediaKind.VIDEO, "item", "https://media.example/v"), None)
    item = ItemPlan(MediaKind.VIDEO, "item", (source,) * max(list_of, 1), list_of > 0, part)
    profile = replace(PROFILE, sampling=replace(PROFILE.sampling, **(family or {})))
    return frame_sampling(item, request, server, profile)


def test_the_part_says_then_the_request_then_the_server_then_the_family() -> None:
    assert sampling().fps == PROFILE.sampling.fps
    server = DecoderConfig(max_frames=32, num_frames=16)
    assert sampling(server=server).num_frames == 16
    request = FrameOptions(fps=4.0)
    assert (sampling(request=request, server=server).fps, sampling(request=request).num_frames) == (4.0, None)
    assert sampling(FrameOptions(num_frames=3), request, server) == FrameSampling(3, None, 32)


def test_the_servers_ceiling_holds_whatever_is_asked() -> None:
    assert sampling(request=FrameOptions(fps=1000.0)).max_frames == 32
    assert sampling(family={"max_frames": 768}).max_frames == 32
    assert sampling(FrameOptions(fps=1.0, max_frames=5)).max_frames == 5
    for option in ("num_frames", "max_frames"):
        with pytest.raises(BadRequest, match="at most 32") as caught:
            sampling(FrameOptions(**{option: 33}))
        assert caught.value.param == option


def test_the_familys_minimum_gives_way_to_a_smaller_maximum() -> None:
    assert sampling().min_frames == 4
    assert sampling(FrameOptions(max_frames=2)).min_frames == 2


def test_fps_and_num_frames_contradict_each_other() -> None:
    with pytest.raises(BadRequest, match="not both"):
        sampling(FrameOptions(fps=1.0, num_frames=4))


def test_a_span_must_have_a_length() -> None:
    assert sampling(FrameOptions(start_s=1.0, end_s=2.0)).end_s == 2.0
    with pytest.raises(BadRequest, match="smaller"):
        sampling(FrameOptions(start_s=2.0, end_s=2.0))


def test_all_pictures_of_a_list_are_taken_unless_the_request_says_fewer() -> None:
    assert sampling(list_of=5) == FrameSampling(5, None, 32)
    assert sampling(list_of=5, request=FrameOptions(num_frames=3)).num_frames == 3
    assert sampling(list_of=50).num_frames == 32


def test_a_lists_own_rate_is_the_rate_it_was_taken_at_and_the_requests_rate_is_not() -> None:
    assert sampling(FrameOptions(fps=2.0), list_of=5).fps == 2.0
    assert sampling(request=FrameOptions(fps=2.0), list_of=5).num_frames == 5
