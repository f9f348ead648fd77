"""The benchmarks of scaling, as far as they go without a cluster: their configurations, their log, their tables."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from benchmarks.cluster import autoscaling, scaling, sizing, to_zero
from benchmarks.cluster.paced import PacedConfig
from benchmarks.cluster.scaling_log import Logged, read_looks
from tests.support import serve_files

NOW_S = 1_000.0


def context(load: float, requests: float, queued: float = 0.0) -> Any:
    point = SimpleNamespace(timestamp=NOW_S)
    return SimpleNamespace(
        deployment_name="VideoDecoder",
        current_num_replicas=1,
        target_num_replicas=1,
        current_time=NOW_S,
        total_num_requests=requests,
        total_queued_requests=queued,
        aggregated_metrics={"load": {"r": load}, "next_load": {"r": 0.5}},
        raw_metrics={"load": {"r": [point]}},
        config=SimpleNamespace(target_ongoing_requests=4, look_back_period_s=2.0, metrics_interval_s=10.0),
    )


def test_the_log_tells_what_load_and_count_ask_for(tmp_path):
    path = tmp_path / "looks.jsonl"
    by_load, by_count = (Logged(str(path), scale_by) for scale_by in ("load", "count"))
    assert by_load(context(1.0, requests=6, queued=3))[0] == 3
    assert by_count(context(1.0, requests=6, queued=3))[0] == 2
    for look in read_looks(path):
        assert (look.load, look.by_load, look.by_count, look.queued, look.replicas) == (2.5, 3, 2, 3, 1)


def test_a_line_in_the_making_is_left_out(tmp_path):
    path = tmp_path / "looks.jsonl"
    assert read_looks(path) == []
    Logged(str(path), "load")(context(1.0, 1))
    with path.open("a") as log:
        log.write('{"at_s": 1.0, "sta')
    assert len(read_looks(path)) == 1


@pytest.mark.parametrize("scale_by", ["load", "count"])
def test_ray_takes_the_configuration_of_the_waves(tmp_path, scale_by):
    config = yaml.safe_load(autoscaling._config(tmp_path, tmp_path / "looks", scale_by).read_text())
    serve_files.check(config)
    entry = serve_files.deployments_of(config)["Model"]
    policy = AutoscalingConfig(**entry["autoscaling_config"]).policy
    wanted, _ = policy.get_policy()(**policy.policy_kwargs)(context(2.0, requests=2))
    assert wanted == (2 if scale_by == "load" else 1)


def test_ray_takes_the_configuration_of_the_paced_application():
    config = scaling.paced_config(8000, replicas=2, ingresses=1, args={})
    ServeDeploySchema.model_validate(config)
    assert serve_files.unknown_keys(config) == []
    PacedConfig.model_validate(config["applications"][0]["args"])
    replicas = {name: entry["num_replicas"] for name, entry in serve_files.deployments_of(config).items()}
    assert replicas == {"Ingress": 1, "MediaFetcher": 1, "VideoDecoder": 2, "Preprocessor": 1, "Model": 2}


def test_the_cost_model_of_a_stage_is_places_by_seconds():
    assert scaling.stage_rate("clips", 2) == 2 * scaling.stage_rate("clips", 1) == 8
    assert scaling.stage_rate("answers", 1) == pytest.approx(4 / (16 * 0.06))


def costs_file(path):
    def kind(decode_s):
        return {"media_cpu_s": {"fetch": 0.01, "decode": decode_s, "preprocess": 0.02}, "prefill_s": 0.01}

    kinds = {name: kind(0.5 * ("clip" in name)) | {"front_cpu_s": 0.02} for name in sizing.KINDS}
    path.write_text(json.dumps({"kinds": kinds, "token_s": 0.001, "idle_cores": 0.1}))
    return path


def test_the_check_takes_idle_processes_and_the_load_generator_into_account(tmp_path):
    measured = json.loads(costs_file(tmp_path / "costs.json").read_text())
    bench = SimpleNamespace(args=SimpleNamespace(cores=1, users=8))
    text_s = 0.01 + 0.02 + 0.02 + 0.01 + 16 * 0.001  # fetch (of this file's text), preprocess, front, prefill, tokens
    for client_s, others in ((0.0, 0.0), (0.03, 0.0), (0.03, 0.4)):
        real = {"client_cpu_s": client_s, "others_cores": others}
        found = sizing.simulate_here(bench, measured, "text only", real)
        assert found["rate"] == pytest.approx((0.9 - others) / (text_s + client_s), rel=0.05)
        assert found["cpu_s"] == pytest.approx(text_s)


def test_sizing_writes_its_table_between_the_marks_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{sizing.BEGIN}old{sizing.END}\nafter", encoding="utf-8")
    argv = ["--quick", "--costs", str(costs_file(tmp_path / "costs.json")), "--max-running", "8", "--readme", str(page)]
    line = sizing.main(argv)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert "old" not in text
    for row in line["results"]["mixes"]:
        assert f"| {row['mix']} |" in text
        assert row["with"] >= 0.95 * row["rate"]
        assert row["cpus"] >= sum(row["by_stage"].values()) * 0.9


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    argv = ["--quick", "--costs", str(costs_file(tmp_path / "costs.json")), "--max-running", "4", "--readme", str(page)]
    with pytest.raises(ValueError, match="sizing"):
        sizing.main(argv)


def test_ray_takes_the_configuration_of_a_model_at_zero():
    config = to_zero.config(8000)
    ServeDeploySchema.model_validate(config)
    PacedConfig.model_validate(config["applications"][0]["args"])
    entry = serve_files.deployments_of(config)[f"Model:{to_zero.RARE}"]
    assert AutoscalingConfig(**entry["autoscaling_config"]).min_replicas == 0
