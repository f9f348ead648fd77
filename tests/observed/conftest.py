"""A second application with all on that looks at requests: traces, caches, keys. It lives on a cluster of its own."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.kit.servers import OwnServer, sluice
from tests.http import parts
from tests.support.media_files import make_picture, make_sound, make_video
from tests.support.media_server import MediaServer, serve, slow, status
from tests.support.otlp_collector import OtlpCollector

KEY = "a-key-of-the-file"
KV_CACHE_GIB = 0.0037
"""Of the demo model: 4 layers of 2 x 2 heads of 32 numbers of 4 bytes, 2 KiB a token."""
CACHE_BYTES = 256 * 2**10
"""Of fetched media: less than two of the large pictures hold."""
EXPORT_EVERY_S = 3.0
"""Gauges that were not set for two such periods are forgotten: the slowest of Ray's own are set every five seconds."""
METRICS_ENV = {
    "RAY_metrics_report_interval_ms": f"{EXPORT_EVERY_S * 1000:.0f}",
    "RAY_SERVE_STATUS_GAUGE_REPORT_INTERVAL_S": "1",
}


@dataclass(frozen=True)
class Observed:
    """The running application, and who looks at it."""

    server: OwnServer
    collector: OtlpCollector
    media: MediaServer

    @property
    def folder(self) -> Path:
        """Of its cluster: sessions, logs, and where the agents' ports stand."""
        return self.server.log.parent

    def post(self, messages: list[dict[str, Any]], headers: dict[str, str] | None = None, **fields: Any) -> Any:
        """A chat completion's response, as someone who has a key."""
        body = {"model": "demo", "messages": messages, "max_tokens": 4, "temperature": 0, **fields}
        own = {"authorization": f"Bearer {KEY}", **(headers or {})}
        return httpx.post(f"{self.server.url}/v1/chat/completions", json=body, headers=own, timeout=120)

    def run_batch(self, bodies: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of chat completions, when it has ended."""
        with httpx.Client(base_url=self.server.url, headers={"authorization": f"Bearer {KEY}"}, timeout=120) as client:
            url = "/v1/chat/completions"
            lines = [
                {"custom_id": str(n), "method": "POST", "url": url, "body": {"model": "demo", **body}}
                for n, body in enumerate(bodies)
            ]
            text = "\n".join(json.dumps(line) for line in lines).encode()
            file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", text)}).json()
            asked = {"input_file_id": file["id"], "endpoint": url, "completion_window": "24h"}
            batch: dict[str, Any] = client.post("/v1/batches", json=asked).json()
            while batch["status"] in ("validating", "in_progress", "finalizing"):
                time.sleep(0.2)
                batch = client.get(f"/v1/batches/{batch['id']}").json()
        return batch

    def metrics(self) -> str:
        """The application's page and, below it, all that the nodes' agents export beside."""
        time.sleep(3 * EXPORT_EVERY_S)
        found = json.loads((self.folder / "ray/prom_metrics_service_discovery.json").read_text(encoding="utf-8"))
        pages = [httpx.get(f"{self.server.url}/metrics", timeout=30).text]
        pages += [httpx.get(f"http://{target}/metrics", timeout=30).text for target in found[0]["targets"]]
        return "\n".join(pages)


@pytest.fixture(scope="package")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# of the tests\n{KEY}\n", encoding="utf-8")
    with OtlpCollector() as collector, MediaServer() as media:
        args = {
            "tracing": {"otlp_endpoint": collector.url},
            "media": {"cache_bytes": CACHE_BYTES},
            # Room for one answer of full length at a time, so that two of them make way for each other.
            "engine": {"reuse_cache_mib": 64, "kv_cache_gib": KV_CACHE_GIB, "max_context_tokens": 1024},
            "ingress": {"api_keys_file": str(keys), "batch_folder": str(tmp_path_factory.mktemp("batches"))},
        }
        with sluice(args=args, env=METRICS_ENV) as server:
            yield Observed(server, collector, media)


@pytest.fixture(scope="package")
def visited(observed: Observed) -> Observed:
    """After requests of every kind, so that everything that is counted has been counted."""
    media = observed.media
    keep = {"cache_control": "max-age=600"}
    clip = media.add("/visited/clip.mp4", serve(make_video(30, tones_hz=(440.0,)), **keep))
    picture = media.add("/visited/picture.png", serve(make_picture("PNG"), **keep))
    trickling = media.add("/visited/slow.png", slow(make_picture("PNG", number=3), pause_s=0.3))
    sound = parts.input_audio(make_sound("wav", seconds=1.0))
    everything = parts.user(parts.video(clip), parts.image(picture), sound, "What is it?")
    for stream in (False, True):  # twice: from the caches the second time
        assert observed.post(everything, stream=stream, use_audio_in_video=True).status_code == 200
    for beginning in ("Look.", "See."):  # the second time the towers have seen it, and the prompt is another
        assert observed.post(parts.user(beginning, parts.image(picture), "What is it?")).status_code == 200
    for n in range(2):  # the second makes the first one's place its own
        large = media.add(
            f"/visited/large-{n}.bmp", serve(make_picture("BMP", width=256, height=192, number=n), **keep)
        )
        assert observed.post(parts.user(parts.image(large), "?")).status_code == 200
    assert observed.run_batch([{"messages": parts.user("Only text."), "max_tokens": 4}])["status"] == "completed"
    assert observed.post(parts.user("Only text."), stream=True).status_code == 200
    frames = [parts.data_url(make_picture("PNG", number=n), "image/png") for n in range(4)]
    assert observed.post(parts.user({"type": "video", "video": frames}, "And now?")).status_code == 200
    with ThreadPoolExecutor(4) as pool:
        joined = [pool.submit(observed.post, parts.user(parts.image(trickling), "?")) for _ in range(4)]
    assert [answer.result().status_code for answer in joined] == [200] * 4
    long = {"max_tokens": 700, "ignore_eos": True}
    with ThreadPoolExecutor(3) as pool:
        crowd = [pool.submit(observed.post, parts.user(f"{n} and only text."), **long) for n in range(3)]
    assert [answer.result().status_code for answer in crowd] == [200] * 3
    missing = media.add("/visited/missing.png", status(404))
    assert observed.post(parts.user(parts.image(missing), "?")).status_code == 400
    assert observed.post(parts.user(*[parts.image(picture)] * 17, "?")).status_code == 400
    assert observed.post(parts.user("hi"), {"authorization": "Bearer another"}).status_code == 401
    return observed
