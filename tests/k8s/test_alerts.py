"""Prometheus's own tool reads every query, and alerts go off when they should. Skipped where it is missing."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import Tree
from tests.k8s.test_monitoring import MONITORING, dashboard_queries

PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="no promtool here")

TARGET = 'ray_serve_autoscaling_target_replicas{application="sluice",deployment="Model"}'
HEALTHY = 'ray_serve_deployment_replica_healthy{application="sluice",deployment="Model",replica="a"}'
ANSWERED = 'ray_sluice_requests_total{route="/v1/chat/completions",status="200"}'
PROBES = {
    'ray_sluice_requests_total{route="/health",status="200"}': "0+9000x120",
    'ray_sluice_requests_total{route="/ready",status="503"}': "0+9000x120",
}
"""They come often, and a 503 of `/ready` only says that a replica starts: neither may hide or make an alert."""

FIRING: dict[str, dict[str, str]] = {
    "SluiceStageDown": {TARGET: "1x120", HEALTHY: "1x8 _x112"},  # its series ends with the last replica
    "SluiceErrors": PROBES | {ANSWERED: "0+90x120", ANSWERED.replace("200", "503"): "0+10x120"},
    "SluiceRefusing": PROBES | {ANSWERED: "0+90x120", 'ray_sluice_refused_total{reason="overloaded"}': "0+10x120"},
    "SluiceSlowFirstToken": {
        'ray_sluice_ttft_seconds_bucket{le="10.0"}': "0+1x120",
        'ray_sluice_ttft_seconds_bucket{le="30.0"}': "0+9x120",
        'ray_sluice_ttft_seconds_bucket{le="+Inf"}': "0+10x120",
    },
    "SluiceKvCacheFull": {
        'ray_sluice_kv_usage{replica="a"}': "0.99x120",
        'ray_sluice_kv_usage{replica="b"}': "0.98x120",
    },
    "SluiceIngressStalls": {'ray_sluice_loop_lag_seconds{replica="a"}': "0.9x120"},
    "SluiceSpilling": {'ray_object_store_memory{Location="SPILLED",ray_io_group="media"}': "5000000x120"},
    "SluiceHeadMemory": {
        'ray_node_mem_used{ray_io_group="headgroup"}': "95x120",
        'ray_node_mem_total{ray_io_group="headgroup"}': "100x120",
    },
    "SluiceDisk": {'ray_node_disk_utilization_percentage{ray_io_group="media"}': "91x120"},
}
QUIET: dict[str, dict[str, str]] = {
    "SluiceStageDown": {TARGET: "1x120", HEALTHY: "1x120"},
    "SluiceErrors": PROBES | {ANSWERED: "0+90x120", ANSWERED.replace("200", "400"): "0+90x120"},
    "SluiceRefusing": {ANSWERED: "0+90x120", 'ray_sluice_refused_total{reason="overloaded"}': "1x120"},
    "SluiceKvCacheFull": {
        'ray_sluice_kv_usage{replica="a"}': "0.99x120",
        'ray_sluice_kv_usage{replica="b"}': "0.2x120",
    },
}


def rules() -> Tree:
    spec: Tree = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["spec"]
    return spec


def promtool(folder: Path, verb: str, files: dict[str, Any]) -> None:
    """Run `promtool VERB rules` on the last of the files; fails with what it says."""
    assert PROMTOOL is not None
    for name, tree in files.items():
        (folder / name).write_text(yaml.safe_dump(tree), encoding="utf-8")
    command = [PROMTOOL, verb, "rules", list(files)[-1]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def at_the_end(alert: str, series: dict[str, str], *, fires: bool) -> Tree:
    """A test of promtool's: after half an hour of these samples, 15 seconds apart, the alert is on or off."""
    condition = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    return {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": condition, "eval_time": "28m", "exp_samples": [{"labels": "{}", "value": float(fires)}]}
        ],
    }


def test_prometheus_can_read_every_query_of_dashboard_and_alerts(tmp_path: Path) -> None:
    queries = [query.replace("$__rate_interval", "5m") for query in dashboard_queries()]
    shown = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    promtool(tmp_path, "check", {"dashboard.yaml": {"groups": [{"name": "dashboard", "rules": shown}]}})
    promtool(tmp_path, "check", {"rules.yaml": rules()})


@pytest.mark.parametrize("alert", FIRING)
def test_an_alert_goes_off(alert: str, tmp_path: Path) -> None:
    test = at_the_end(alert, FIRING[alert], fires=True)
    promtool(tmp_path, "test", {"rules.yaml": rules(), "test.yaml": {"rule_files": ["rules.yaml"], "tests": [test]}})


@pytest.mark.parametrize("alert", QUIET)
def test_an_alert_keeps_quiet(alert: str, tmp_path: Path) -> None:
    test = at_the_end(alert, QUIET[alert], fires=False)
    promtool(tmp_path, "test", {"rules.yaml": rules(), "test.yaml": {"rule_files": ["rules.yaml"], "tests": [test]}})


def test_every_alert_is_tried() -> None:
    assert {rule["alert"] for group in rules()["groups"] for rule in group["rules"]} == set(FIRING)
