"""What the running application tells Ray of its work, as Ray itself exports it."""

import re
import time
from collections.abc import Callable

import httpx
import openai

from tests.http import parts

PATIENCE_S = 60.0  # Ray asks each fifth of its window, 6 s


def series(http: httpx.Client, name: str, deployment: str) -> list[float]:
    """Values of all replicas."""
    lines = http.get("/metrics").text.splitlines()
    mine = [line for line in lines if re.match(rf"{name}(_total)?{{", line) and f'deployment="{deployment}"' in line]
    return [float(line.rsplit(" ", 1)[1]) for line in mine]


def wait_for(found: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.5)


def test_the_decoder_tells_ray_its_load(http: httpx.Client, client: openai.OpenAI, clip: bytes) -> None:
    client.chat.completions.create(model="demo", messages=parts.user(parts.video(clip), "?"), max_tokens=2)
    asked = "ray_serve_user_autoscaling_stats_latency_ms_count"
    before = sum(series(http, asked, "VideoDecoder"))
    wait_for(lambda: sum(series(http, asked, "VideoDecoder")) > before)
    assert series(http, "ray_sluice_load", "VideoDecoder") == [0.0]
    assert series(http, "ray_sluice_waiting_megapixels", "VideoDecoder") == [0.0]
    assert not any(series(http, "ray_serve_record_autoscaling_stats_failed", "VideoDecoder"))


def test_the_policy_decides_without_trouble(http: httpx.Client) -> None:
    wait_for(lambda: bool(series(http, "ray_serve_autoscaling_desired_replicas", "VideoDecoder")))
    assert max(series(http, "ray_serve_autoscaling_desired_replicas", "VideoDecoder")) <= 2
    assert not series(http, "ray_serve_user_autoscaling_stats_latency_ms_count", "Model")  # one replica, not scaled
