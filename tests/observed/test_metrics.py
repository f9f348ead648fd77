"""What is measured, as the running application exports it; and that dashboards and alerts ask for just that."""

import re
from dataclasses import dataclass

import pytest

from deployments.observability.metrics import METRICS
from tests.k8s.test_monitoring import TARGET_LABELS, alerts, dashboard, queries
from tests.observed.conftest import Observed

FAILED = 'status=~"5.."'
NEEDS_A_GPU = {"ray_node_gpus_utilization"}
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
_SAMPLE = re.compile(r"^(ray_\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SELECTOR = re.compile(r"\b(ray_(?!io_)\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


@dataclass(frozen=True)
class Sample:
    name: str
    labels: dict[str, str]
    value: float


ELSEWHERE = {"sluice_video_parts", "sluice_encodes_waiting", "sluice_waiting_media_values"}
"""What takes more than one decoder and a long video, or a model's towers in a deployment of their own."""


@pytest.fixture(scope="module")
def samples(visited: Observed) -> list[Sample]:
    lines = (_SAMPLE.match(line) for line in visited.metrics().splitlines())
    return [Sample(m[1], dict(_LABEL.findall(m[2] or "")), float(m[3])) for m in lines if m]


def selected(samples: list[Sample], name: str, matchers: str) -> list[Sample]:
    """What a selector of PromQL finds, as far as the application itself makes the labels."""
    tests = [test for test in _MATCHER.findall(matchers) if test[0] not in TARGET_LABELS]
    return [
        s for s in samples if s.name == name and all(matches(s.labels.get(test[0], ""), *test[1:]) for test in tests)
    ]


def matches(value: str, operator: str, wanted: str) -> bool:
    same = re.fullmatch(wanted, value) is not None if "~" in operator else value == wanted
    return same != operator.startswith("!")


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in ELSEWHERE])
def test_everything_of_the_catalogue_is_exported_with_its_tags(samples: list[Sample], metric: str) -> None:
    spec = METRICS[metric]
    for ending in ENDINGS[spec.kind]:
        found = selected(samples, f"ray_{metric}{ending}", "")
        assert found, f"no ray_{metric}{ending}"
        assert all(set(spec.tags) | {"application", "deployment", "replica"} <= set(s.labels) for s in found)
    if spec.kind == "counter":
        assert any(s.value > 0 for s in selected(samples, f"ray_{metric}_total", "")), "nothing was counted"


@pytest.mark.parametrize("query", sorted(set(queries())))
def test_a_query_finds_what_the_application_exports(samples: list[Sample], query: str) -> None:
    grouped = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", query) for label in labels.split(",")}
    for name, matchers in _SELECTOR.findall(query):
        if name in NEEDS_A_GPU:
            continue
        found = selected(samples, name, matchers)
        if not found and FAILED in matchers:  # nothing went wrong here: what would have failed is there
            found = selected(samples, name, matchers.replace(FAILED, ""))
        assert found, f"{name}{{{matchers}}} finds nothing"
        assert all(grouped - TARGET_LABELS <= set(sample.labels) for sample in found), query


def test_stages_are_told_apart_by_the_labels_that_panels_show(samples: list[Sample]) -> None:
    stages = {s.labels["stage"] for s in selected(samples, "ray_sluice_stage_seconds_count", "")}
    assert stages == {"admission", "fetch", "video_decode", "preprocess", "queue", "encode", "prefill", "decode"}
    modalities = {s.labels["modality"] for s in selected(samples, "ray_sluice_prompt_tokens_total", "")}
    assert modalities == {"text", "image", "video", "audio"}
    reasons = {s.labels["reason"] for s in selected(samples, "ray_sluice_refused_total", "")}
    assert {"invalid_api_key", "too_many_items"} <= reasons


def test_every_panel_and_alert_is_about_something() -> None:
    assert len(queries()) >= 40
    assert all(panel.get("targets") or panel["type"] == "row" for panel in dashboard()["panels"])
    assert len(alerts()) >= 9
