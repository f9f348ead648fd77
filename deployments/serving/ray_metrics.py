"""The metrics' way into Ray Serve, and where the cluster's nodes export them."""

from typing import Any

import ray
from ray.serve.metrics import Counter, Gauge, Histogram

from deployments.observability.metrics import METRICS


def metrics_endpoints() -> list[str]:
    """URLs at which the live nodes' agents export metrics as Prometheus text. Asks the cluster: blocks for a moment."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["MetricsExportPort"]]
    return [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes]


class ServeMetricSink:
    """`metrics.MetricSink` over `ray.serve.metrics`: only inside a replica, whose name the metrics carry."""

    def __init__(self) -> None:
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}

    def count(self, name: str, value: float = 1, **tags: str) -> None:
        if value > 0:
            self._metric(name).inc(value, tags)

    def gauge(self, name: str, value: float, **tags: str) -> None:
        self._metric(name).set(value, tags)

    def observe(self, name: str, value: float, **tags: str) -> None:
        self._metric(name).observe(max(value, 1e-9), tags)

    def _metric(self, name: str) -> Any:
        metric = self._metrics.get(name)
        if metric is None:
            metric = self._metrics[name] = self._create(name)
        return metric

    @staticmethod
    def _create(name: str) -> Counter | Gauge | Histogram:
        spec = METRICS[name]
        if spec.kind == "counter":
            return Counter(name, spec.description, spec.tags)
        if spec.kind == "gauge":
            return Gauge(name, spec.description, spec.tags)
        return Histogram(name, spec.description, list(spec.buckets), spec.tags)
