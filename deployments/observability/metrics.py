"""The catalogue of what Sluice measures, and the sink that rooms report to. Knows nothing of Ray or Prometheus.

A room calls `sink.count("sluice_fetched_bytes", 1024, kind="video")`. The application's sink (`ServeMetricSink`)
turns that into Ray Serve metrics, which carry the deployment's and the replica's name by themselves; tests pass a
`RecordingSink`. Names carry their unit; a name or tag that is not in the catalogue is a `KeyError`, also in tests.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
ITL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS: dict[str, MetricSpec] = {
    # ingress
    "sluice_requests": MetricSpec("counter", "HTTP requests answered.", ("route", "status")),
    "sluice_request_seconds": MetricSpec(
        "histogram", "From the first byte of a request to the last of its answer.", ("route",), LATENCY_BUCKETS_S
    ),
    "sluice_ttft_seconds": MetricSpec("histogram", "Time to the first token.", ("model",), LATENCY_BUCKETS_S),
    "sluice_itl_seconds": MetricSpec("histogram", "Mean time between an answer's tokens.", ("model",), ITL_BUCKETS_S),
    "sluice_stage_seconds": MetricSpec(
        "histogram",
        "A stage's call as its caller sees it, waiting and hand-off included.",
        ("stage",),
        LATENCY_BUCKETS_S,
    ),
    "sluice_wait_seconds": MetricSpec(
        "histogram",
        "What of a stage's call was not its work: waiting for room, a replica, a thread or a slot, and the hand-off.",
        ("stage",),
        LATENCY_BUCKETS_S,
    ),
    "sluice_routed": MetricSpec(
        "counter",
        "Calls by content, taken by the replica that the content prefers or by another.",
        ("stage", "outcome"),
    ),
    "sluice_refused": MetricSpec("counter", "Requests refused before any work.", ("reason",)),
    "sluice_requests_running": MetricSpec("gauge", "Requests admitted and not yet answered."),
    "sluice_requests_waiting": MetricSpec("gauge", "Requests that wait for admission.", ("model",)),
    "sluice_requests_allowed": MetricSpec(
        "gauge", "Requests without a first token that may be there at once, by the stages' pace.", ("kind", "model")
    ),
    "sluice_requests_heavy": MetricSpec(
        "gauge", "Requests under way of clients that have taken more than the mean of late.", ("kind", "model")
    ),
    "sluice_batch_lines": MetricSpec("counter", "Requests of batches that are done.", ("outcome",)),
    "sluice_batch_allowed": MetricSpec("gauge", "Requests of batches that may be under way at once."),
    "sluice_admitted_bytes": MetricSpec("gauge", "Bytes of media that admitted requests may hold."),
    "sluice_loop_lag_seconds": MetricSpec("gauge", "Longest pause of the ingress loop in the last ten seconds."),
    "sluice_loop_held_seconds": MetricSpec(
        "gauge", "Longest such pause that the loop's own work made; in longer ones its thread waited for a core."
    ),
    "sluice_prompt_tokens": MetricSpec("counter", "Prompt tokens.", ("modality", "model")),
    "sluice_completion_tokens": MetricSpec("counter", "Tokens of answers.", ("model",)),
    # fetcher
    "sluice_fetched_bytes": MetricSpec("counter", "Bytes of media fetched.", ("kind",)),
    "sluice_fetches": MetricSpec("counter", "Media items fetched.", ("kind", "outcome")),
    "sluice_fetch_joined": MetricSpec("counter", "Fetches that joined one already under way."),
    # decoder
    "sluice_frames_decoded": MetricSpec("counter", "Frames that the codec had to decode."),
    "sluice_frames_delivered": MetricSpec("counter", "Frames delivered."),
    "sluice_decoded_megapixels": MetricSpec("counter", "Millions of pixels that the codec had to decode."),
    "sluice_video_parts": MetricSpec(
        "counter", "Parts of videos that other decoders decoded, or that were not taken or lost.", ("outcome",)
    ),
    "sluice_waiting_megapixels": MetricSpec("gauge", "Millions of pixels still to decode of videos in hand."),
    # preprocessor
    "sluice_prepared_bytes": MetricSpec("counter", "Bytes of tensors handed to the model stage."),
    # every stage with threads
    "sluice_threads_busy": MetricSpec("gauge", "Threads of a stage's executor that work.", ("stage",)),
    # stages that are scaled by their work
    "sluice_load": MetricSpec("gauge", "Work in hand as a multiple of what one replica should have before it."),
    # whatever is kept for media that are seen again, by cache: fetch, video_decode, encode (items, or frames of clips)
    "sluice_cache_hits": MetricSpec("counter", "Media that were there already.", ("cache",)),
    "sluice_cache_misses": MetricSpec("counter", "Media that had to be fetched, decoded or encoded.", ("cache",)),
    "sluice_cache_evictions": MetricSpec("counter", "Media that made way for others.", ("cache",)),
    "sluice_cache_bytes": MetricSpec("gauge", "Bytes kept for media that are seen again.", ("cache",)),
    # encoder
    "sluice_encodes_waiting": MetricSpec("gauge", "Requests whose media wait for the towers, or are being encoded."),
    "sluice_waiting_media_values": MetricSpec("gauge", "Numbers in pixels and sounds that are still to be encoded."),
    # model
    "sluice_sequences_running": MetricSpec("gauge", "Sequences that prefill or decode."),
    "sluice_sequences_waiting": MetricSpec("gauge", "Sequences that wait to run."),
    "sluice_grammars_compiling": MetricSpec("gauge", "JSON schemas that are being compiled."),
    "sluice_batch_size": MetricSpec("histogram", "Sequences in a decode step.", (), BATCH_BUCKETS),
    "sluice_kv_tokens": MetricSpec("gauge", "Tokens held in the KV cache."),
    "sluice_kv_usage": MetricSpec("gauge", "Share of the KV cache in use, 0 to 1."),
    "sluice_kv_cached_pages": MetricSpec("gauge", "Pages kept for prompts that begin alike, which nobody uses now."),
    "sluice_preemptions": MetricSpec("counter", "Requests that made way for older ones when the KV cache was full."),
    "sluice_prefix_cache_hit_tokens": MetricSpec("counter", "Prompt tokens whose keys and values were there already."),
    "sluice_prefix_cache_prompt_tokens": MetricSpec("counter", "Prompt tokens in all, those among them."),
    "sluice_waiting_prefill_tokens": MetricSpec("gauge", "Prompt tokens that wait for their prefill."),
    "sluice_multimodal_bytes": MetricSpec("gauge", "Bytes of processor tensors and encoder outputs alive.", ("place",)),
}


class MetricSink(Protocol):
    """Where measurements go. Calls are cheap and never raise for a name and tags of the catalogue."""

    def count(self, name: str, value: float = 1, **tags: str) -> None: ...

    def gauge(self, name: str, value: float, **tags: str) -> None: ...

    def observe(self, name: str, value: float, **tags: str) -> None: ...


class RecordingSink:
    """Keeps what it was told: `values[name, (tag values...)]`, sums for counters, lists for histograms."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[str, ...]], float] = {}
        self.observed: dict[tuple[str, tuple[str, ...]], list[float]] = {}

    def count(self, name: str, value: float = 1, **tags: str) -> None:
        key = self._key("counter", name, tags)
        self.values[key] = self.values.get(key, 0) + value

    def gauge(self, name: str, value: float, **tags: str) -> None:
        self.values[self._key("gauge", name, tags)] = value

    def observe(self, name: str, value: float, **tags: str) -> None:
        self.observed.setdefault(self._key("histogram", name, tags), []).append(value)

    @staticmethod
    def _key(kind: str, name: str, tags: dict[str, str]) -> tuple[str, tuple[str, ...]]:
        spec = METRICS[name]
        if spec.kind != kind or set(tags) != set(spec.tags):
            raise KeyError(f"{name} is a {spec.kind} with the tags {spec.tags}")
        return name, tuple(tags[tag] for tag in spec.tags)
