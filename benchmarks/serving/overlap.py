"""How long until the first token of a question about a minute of 1080p, whole and in groups, beside its stages' sums?

Both ways in turn on one machine, each with an application of its own; no file is seen twice. The answers themselves
tell of their stages (`sluice_timing_ms`): where they work side by side, those of the model hold the waiting for frames,
and the other way tells what each takes.
"""

import asyncio
import base64
import statistics
import time
from pathlib import Path
from typing import Any

import orjson

from benchmarks.kit.clips import ClipSpec, clip
from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.drive import client_session, served_model
from benchmarks.kit.load.media import distinct
from benchmarks.kit.servers import sluice

CLIP = ClipSpec(1080, 60, 30)
STAGES = ("fetch", "video_decode", "preprocess", "encode", "prefill")
WAYS = {"one after the other": False, "side by side": True}


def side_by_side(bench: Benchmark, model: str, config: Path | None) -> dict[str, Any]:
    """Medians of seconds by way: `ttft_s`, and by stage."""
    data = clip(CLIP, bench.seed).tobytes()
    found = {}
    for way, overlap in WAYS.items():
        with sluice(model, config=config, args={"decoder": {"overlap": overlap}}) as server:
            found[way] = asyncio.run(_asked(server.url, data, 3 if bench.quick else 7, bench.args.max_tokens))
    rows = [[way, *(seconds * 1e3 for seconds in found[way].values())] for way in WAYS]
    note = "Milliseconds, medians; `encode` side by side holds the waiting for the next group."
    bench.table(CLIP.name, ["stages", "first token", *STAGES], rows, note)
    return found


def said_of(found: dict[str, Any]) -> str:
    """In a sentence."""
    apart, beside = (found[way] for way in WAYS)
    longest = max(STAGES, key=lambda stage: apart[stage])
    ttfts = (
        f"{apart['ttft'] * 1e3:.0f} ms with its stages one after the other, {beside['ttft'] * 1e3:.0f} ms side by side"
    )
    return (
        f"A minute of 1080p to the first token: {ttfts}; the longest stage, {longest}, {apart[longest] * 1e3:.0f} ms."
    )


async def _asked(url: str, data: bytes, requests: int, max_tokens: int) -> dict[str, float]:
    heard: list[dict[str, float]] = []
    async with client_session() as session:
        model = await served_model(session, url)
        for number in range(requests + 1):  # the first one warms up
            video = base64.b64encode(distinct("video", data, number)).decode()
            content = [
                {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{video}"}},
                {"type": "text", "text": "What happens in the video?"},
            ]
            body = {
                "model": model,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": max_tokens,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            heard.append(await _one(session, url, orjson.dumps(body)))
    return {name: statistics.median(told[name] for told in heard[1:]) for name in ("ttft", *STAGES)}


async def _one(session: Any, url: str, body: bytes) -> dict[str, float]:
    began, first_s, told = time.monotonic(), 0.0, dict.fromkeys(STAGES, 0.0)
    headers = {"Content-Type": "application/json"}
    async with session.post(f"{url}/v1/chat/completions", data=body, headers=headers) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data:") or b"[DONE]" in line:
                continue
            event = orjson.loads(line[5:])
            if event.get("choices") and not first_s:
                first_s = time.monotonic() - began
            for stage, milliseconds in ((event.get("usage") or {}).get("sluice_timing_ms") or {}).items():
                told[stage] = milliseconds / 1e3
    return {"ttft": first_s, **told}
