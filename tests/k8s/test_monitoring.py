"""What the dashboard and the alerts ask for is what the application and Ray export."""

import functools
import json
import re
from importlib.resources import files
from pathlib import Path

import yaml
from ray.serve.metrics import APPLICATION_TAG, DEPLOYMENT_TAG, REPLICA_TAG

from deployments.observability.metrics import METRICS
from tests.k8s import manifests
from tests.k8s.manifests import K8S, Tree, ray_container

MONITORING = K8S / "components/monitoring"
CORE = {"ray_object_store_memory"}  # defined in Ray's C++ part
TARGET_LABELS = {"ray_io_cluster", "ray_io_group"}  # added by the PodMonitors
RAY_TAGS = {APPLICATION_TAG, DEPLOYMENT_TAG, REPLICA_TAG, "Location", "le"}


def dashboard() -> Tree:
    tree: Tree = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    return tree


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def alerts() -> list[Tree]:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    return dashboard_queries() + [rule["expr"] for rule in alerts()]


@functools.cache
def exported_by_sluice() -> frozenset[str]:
    """Series as Ray exports them: counters end in `_total`, histograms have three series."""
    endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return frozenset(f"ray_{name}{ending}" for name, spec in METRICS.items() for ending in endings[spec.kind])


@functools.cache
def exported_by_ray() -> frozenset[str]:
    """Names of metrics in Ray's own Python sources."""
    root = Path(str(files("ray")))
    sources = [*(root / "serve/_private").rglob("*.py"), root / "dashboard/modules/reporter/reporter_agent.py"]
    names = {
        name for source in sources for name in re.findall(r'"((?:serve|node)_\w+)"', source.read_text(encoding="utf-8"))
    }
    return frozenset(f"ray_{name}" for name in names) | CORE


def series(query: str) -> set[str]:
    return set(re.findall(r"\bray_(?!io_)\w+", query))


def tags_of(metric: str) -> set[str]:
    name = metric.removeprefix("ray_")
    for ending in ("", "_total", "_bucket", "_sum", "_count"):
        if name.endswith(ending) and name.removesuffix(ending) in METRICS:
            return set(METRICS[name.removesuffix(ending)].tags)
    return set()


def test_queries_name_series_that_exist() -> None:
    for query in queries():
        assert series(query), query
        assert series(query) <= exported_by_sluice() | exported_by_ray(), query


def test_queries_group_and_filter_by_labels_that_their_series_have() -> None:
    for query in queries():
        known = set().union(*(tags_of(metric) for metric in series(query))) | TARGET_LABELS | RAY_TAGS
        grouped = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", query) for label in labels.split(",")}
        filters = re.findall(r"\{([^}]*)\}", query)
        filtered = {label for labels in filters for label in re.findall(r"(\w+)\s*[=!]", labels)}
        assert grouped | filtered <= known, query


def test_queries_take_rates_of_counters_and_histograms_and_of_nothing_else() -> None:
    for query in queries():
        rated = set(re.findall(r"rate\((ray_\w+)", query))
        for metric in series(query) & exported_by_sluice():
            assert (metric in rated) == metric.endswith(("_total", "_bucket", "_sum", "_count")), query
        assert query.count("(") == query.count(")"), query


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    for rule in alerts():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "runbook"}


def test_prometheus_finds_every_node_of_ray_on_ports_that_it_has() -> None:
    head = ray_container(manifests.cluster(manifests.PLAIN_BASE)["headGroupSpec"]["template"])
    declared = {port["name"] for port in head["ports"]} | {"metrics"}  # the operator declares that one
    monitors = {monitor["metadata"]["name"]: monitor["spec"] for monitor in manifests.of_kind("prod", "PodMonitor")}
    roles = {spec["selector"]["matchLabels"]["ray.io/node-type"] for spec in monitors.values()}
    assert roles == {"head", "worker"}
    assert {endpoint["port"] for endpoint in monitors["sluice-head"]["podMetricsEndpoints"]} <= declared
    assert [endpoint["port"] for endpoint in monitors["sluice-workers"]["podMetricsEndpoints"]] == ["metrics"]
    for spec in monitors.values():
        for endpoint in spec["podMetricsEndpoints"]:
            assert {rule["targetLabel"] for rule in endpoint["relabelings"]} == TARGET_LABELS


def test_grafana_is_given_the_dashboard_as_it_stands_here() -> None:
    configmap = manifests.named("prod", "ConfigMap", "sluice-dashboard")
    assert json.loads(configmap["data"]["sluice.json"]) == dashboard()
    assert configmap["metadata"]["labels"]["grafana_dashboard"] == "1"
