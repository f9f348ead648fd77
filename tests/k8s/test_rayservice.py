"""Rules of the operator that its schema does not hold, and what keeps requests alive while pods come and go."""

import re

import pytest

from tests.k8s import manifests
from tests.k8s.manifests import ALL, K8S, SCALED, SMALL, WITH_GPU, environment, quantity, ray_container
from tests.support import serve_files

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
STAGES_OF = {
    "entry": {"Ingress"},
    "media": {"MediaFetcher", "VideoDecoder", "Preprocessor"},
    "gpu": {"Model"},
}


def start_parameters(name: str) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """`rayStartParams` and `resources` of every group."""
    specs = {"head": manifests.cluster(name)["headGroupSpec"], **manifests.worker_groups(name)}
    return {group: (spec.get("rayStartParams", {}), spec.get("resources", {})) for group, spec in specs.items()}


@pytest.mark.parametrize("name", ALL)
def test_the_name_leaves_room_for_the_operators_suffixes(name: str) -> None:
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", manifests.ray_service(name)["metadata"]["name"])


@pytest.mark.parametrize("name", ALL)
def test_resources_and_labels_are_said_in_one_place(name: str) -> None:
    for parameters, resources in start_parameters(name).values():
        assert resources
        assert not {"num-cpus", "num-gpus", "memory", "resources", "labels"} & set(parameters)


@pytest.mark.parametrize("name", ALL)
def test_the_head_runs_nothing_of_the_application(name: str) -> None:
    _, resources = start_parameters(name)["head"]
    assert resources == {"CPU": "0"}
    assert manifests.ray_service(name)["spec"]["excludeHeadPodFromServeSvc"] is True


@pytest.mark.parametrize("name", ALL)
def test_the_operators_names_are_left_to_it(name: str) -> None:
    assert "headService" not in manifests.cluster(name)["headGroupSpec"]
    service = manifests.ray_service(name)["spec"].get("serveService")
    expected = f"{manifests.ray_service(name)['metadata']['name']}-serve-svc"
    assert service is None or service["metadata"]["name"] == expected
    for template in manifests.pod_templates(name).values():
        assert "livenessProbe" not in ray_container(template) or "redis" in str(template)
        assert "lifecycle" not in ray_container(template)


@pytest.mark.parametrize("name", SCALED)
def test_the_autoscaler_is_the_second_one_and_pods_are_never_restarted(name: str) -> None:
    cluster = manifests.cluster(name)
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    for group, spec in manifests.worker_groups(name).items():
        assert "restartPolicy" not in spec["template"]["spec"], group
        assert spec["idleTimeoutSeconds"] > 0


@pytest.mark.parametrize("name", SMALL)
def test_without_the_autoscaler_there_are_no_settings_of_it(name: str) -> None:
    cluster = manifests.cluster(name)
    assert cluster["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in cluster
    for spec in manifests.worker_groups(name).values():
        assert "idleTimeoutSeconds" not in spec
        assert spec["minReplicas"] == spec["maxReplicas"]


@pytest.mark.parametrize("name", ALL)
def test_groups_have_a_floor_below_their_ceiling_and_names_that_labels_can_hold(name: str) -> None:
    for group, spec in manifests.worker_groups(name).items():
        assert 0 < spec["minReplicas"] <= spec["maxReplicas"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", group)


@pytest.mark.parametrize("name", ALL)
def test_the_way_to_upgrade_is_one_that_the_operator_knows(name: str) -> None:
    upgrade = manifests.ray_service(name)["spec"]["upgradeStrategy"]
    assert upgrade["type"] in {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"}
    assert ("clusterUpgradeOptions" in upgrade) == (upgrade["type"] == "NewClusterWithIncrementalUpgrade")


def test_an_incremental_upgrade_moves_no_more_traffic_than_there_is_room_for() -> None:
    spec = manifests.ray_service("incremental")["spec"]
    options = spec["upgradeStrategy"]["clusterUpgradeOptions"]
    assert options["gatewayClassName"]
    assert 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100
    assert options["intervalSeconds"] > 0
    assert "serveService" not in spec  # the operator would ignore it


@pytest.mark.parametrize("name", ALL)
def test_tokens_guard_ray_and_no_alpha_feature_is_needed(name: str) -> None:
    cluster = manifests.cluster(name)
    assert cluster["authOptions"] == {"mode": "token"}
    assert not {"networkPolicy", "tlsOptions", "historyServerOptions", "upgradeStrategy"} & set(cluster)


@pytest.mark.parametrize("name", SCALED)
def test_a_lost_head_finds_what_it_knew(name: str) -> None:
    options = manifests.cluster(name)["gcsFaultToleranceOptions"]
    service = manifests.named(name, "Service", "sluice-redis")
    assert options["redisAddress"] == f"redis://sluice-redis:{service['spec']['ports'][0]['port']}"
    assert "storage" not in options
    assert "RAY_REDIS_ADDRESS" not in environment(ray_container(manifests.cluster(name)["headGroupSpec"]["template"]))
    redis = manifests.named(name, "StatefulSet", "sluice-redis")["spec"]["template"]["spec"]["containers"][0]
    (password,) = (e["valueFrom"]["secretKeyRef"] for e in redis["env"] if e["name"] == "REDIS_PASSWORD")
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"] == password


@pytest.mark.parametrize("name", ALL)
def test_a_pod_outlives_its_drain_which_outlives_the_requests_in_it(name: str) -> None:
    stages = serve_files.deployments_of(manifests.serve_config(name))
    for group, spec in manifests.worker_groups(name).items():
        drain_s = float(environment(ray_container(spec["template"]))[DRAIN])
        assert drain_s < spec["template"]["spec"]["terminationGracePeriodSeconds"]
        for stage in STAGES_OF[group] if name != "dev" else stages:
            assert stages[stage]["graceful_shutdown_timeout_s"] < drain_s, (group, stage)


@pytest.mark.parametrize("name", ALL)
def test_a_replaced_haproxy_outlives_the_requests_in_it(name: str) -> None:
    """One is replaced each time that an ingress replica comes or goes."""
    image = (K8S / "Dockerfile").read_text(encoding="utf-8")
    (kept_s,) = re.findall(r"RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S=(\d+)", image)
    config = serve_files.arguments_of(manifests.serve_config(name))
    assert config.ingress.request_timeout_s < int(kept_s)
    for group, spec in manifests.worker_groups(name).items():
        if name != "dev" and "Ingress" in STAGES_OF[group]:
            assert int(kept_s) < float(environment(ray_container(spec["template"]))[DRAIN])


@pytest.mark.parametrize("name", ALL)
def test_replicas_shut_down_after_the_longest_work_that_they_may_have(name: str) -> None:
    config = serve_files.arguments_of(manifests.serve_config(name))
    longest_s = {
        "Ingress": config.ingress.request_timeout_s,
        "MediaFetcher": config.media.total_timeout_s,
        "VideoDecoder": config.decoder.timeout_s,
        "Preprocessor": config.preprocessor.timeout_s,
        "Encoder": config.encoder.timeout_s if config.encoder else 0.0,
        "Model": config.ingress.request_timeout_s,
    }
    for stage, entry in serve_files.deployments_of(manifests.serve_config(name)).items():
        assert entry["graceful_shutdown_timeout_s"] > longest_s[stage], stage


@pytest.mark.parametrize("name", ALL)
def test_an_old_cluster_stays_until_its_longest_request_is_answered(name: str) -> None:
    config = serve_files.arguments_of(manifests.serve_config(name))
    delay_s = manifests.ray_service(name)["spec"]["rayClusterDeletionDelaySeconds"]
    assert delay_s > manifests.serve_config(name)["http_options"]["request_timeout_s"]
    assert delay_s > config.ingress.request_timeout_s


@pytest.mark.parametrize("name", ALL)
def test_requests_come_in_where_the_named_port_is(name: str) -> None:
    port = manifests.serve_config(name)["http_options"]["port"]
    head = ray_container(manifests.cluster(name)["headGroupSpec"]["template"])
    assert {"name": "serve", "containerPort": port, "protocol": "TCP"} in [
        {"protocol": "TCP", **entry} for entry in head["ports"]
    ]
    holders = {
        group
        for group, spec in manifests.worker_groups(name).items()
        for entry in ray_container(spec["template"]).get("ports", [])
        if entry["name"] == "http-entry" and entry["containerPort"] == port
    }
    assert holders == {"entry"}
    service = manifests.ray_service(name)["spec"].get("serveService")
    if service is not None:
        assert service["spec"]["ports"] == [{"name": "serve", "port": port, "targetPort": "http-entry"}]
        for ingress in manifests.of_kind(name, "Ingress"):
            backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
            assert backend == {"name": service["metadata"]["name"], "port": {"number": port}}


@pytest.mark.parametrize("name", SCALED)
def test_a_budget_leaves_room_for_draining_a_node(name: str) -> None:
    groups = manifests.worker_groups(name)
    budgets = manifests.of_kind(name, "PodDisruptionBudget")
    assert {b["spec"]["selector"]["matchLabels"]["ray.io/group"] for b in budgets} == set(groups)
    for budget in budgets:
        spec = budget["spec"]
        (label,) = spec["selector"]["matchLabels"].items()
        assert label[0] == "ray.io/group"
        assert isinstance(spec["minAvailable"], int)
        assert 0 < spec["minAvailable"] < groups[label[1]]["minReplicas"]
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("name", WITH_GPU)
def test_workers_wait_for_the_checkpoint_that_the_application_serves(name: str) -> None:
    model = serve_files.arguments_of(manifests.serve_config(name)).model
    assert manifests.named(name, "ConfigMap", "sluice-model")["data"]["MODEL_ID"] == model
    for group, spec in manifests.worker_groups(name).items():
        (waiter,) = spec["template"]["spec"]["initContainers"]
        assert "/models/ready/$MODEL_ID" in waiter["args"][0], group
        home = environment(ray_container(spec["template"]))
        assert (home["HF_HOME"], home["HF_HUB_OFFLINE"]) == ("/models/hf", "1")
    (job,) = manifests.of_kind(name, "Job")
    assert environment(job["spec"]["template"]["spec"]["containers"][0])["HF_HOME"] == "/models/hf"


@pytest.mark.parametrize("name", WITH_GPU)
def test_only_the_download_job_sees_the_hubs_token(name: str) -> None:
    holders = [d for d in manifests.documents(name) if "sluice-hub" in str(d)]
    assert [d["metadata"]["name"] for d in holders] == ["sluice-model-download"]


@pytest.mark.parametrize("name", ALL)
def test_the_object_store_fits_its_shared_memory_and_leaves_memory_for_work(name: str) -> None:
    templates = manifests.pod_templates(name)
    for group, (parameters, _) in start_parameters(name).items():
        store = int(parameters["object-store-memory"])
        pod = templates[group]["spec"]
        (shm,) = (v["emptyDir"] for v in pod["volumes"] if v["name"] == "shm")
        assert {"name": "shm", "mountPath": "/dev/shm"} in ray_container(templates[group])["volumeMounts"]
        assert shm["medium"] == "Memory"
        assert store * 1.1 < quantity(shm["sizeLimit"])
        assert quantity(shm["sizeLimit"]) <= 0.4 * quantity(
            ray_container(templates[group])["resources"]["limits"]["memory"]
        )


@pytest.mark.parametrize("name", ALL)
def test_spilled_payloads_fit_the_disk_that_a_worker_may_use(name: str) -> None:
    for group, spec in manifests.worker_groups(name).items():
        pod = spec["template"]["spec"]
        (spill,) = (v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v["name"] == "ray")
        limit = quantity(ray_container(spec["template"])["resources"]["limits"]["ephemeral-storage"])
        assert int(spec["rayStartParams"]["object-store-memory"]) < quantity(spill) < limit, group
