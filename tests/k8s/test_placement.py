"""Where stages can be placed: what they ask for against what the groups offer."""

import pytest

from tests.k8s import manifests
from tests.k8s.manifests import ALL, SCALED, WITH_GPU, Tree, quantity, ray_container
from tests.support import serve_files

PLACES = {
    "Ingress": "entry",
    "MediaFetcher": "media",
    "VideoDecoder": "media",
    "Preprocessor": "media",
    "Encoder": "gpu",
    "Model": "gpu",
}
Amounts = dict[str, float]

KUBERNETES_OWN_CPUS = 1.05
"""What a node of kind asks for itself: control plane 0.65, CoreDNS 0.2, network 0.1; and the Ray operator 0.1."""


def demand(stage: Tree) -> Amounts:
    """What one replica asks Ray for, all ranks of a divided one together."""
    bundles = stage.get("placement_group_bundles")
    if bundles is not None:
        assert stage["placement_group_strategy"] == "STRICT_PACK"
        return {resource: sum(bundle.get(resource, 0) for bundle in bundles) for resource in bundles[0]}
    options = stage["ray_actor_options"]
    asked = {"CPU": options["num_cpus"], "GPU": options.get("num_gpus", 0), **options.get("resources", {})}
    return {resource: amount for resource, amount in asked.items() if amount}


def offer(group: Tree) -> Amounts:
    """What one node of the group offers."""
    return {resource: float(amount) for resource, amount in group["resources"].items()}


def fits(wanted: Amounts, free: Amounts) -> bool:
    return all(amount <= free.get(resource, 0) + 1e-9 for resource, amount in wanted.items())


def replicas(stage: Tree, bound: str) -> int:
    scaling = stage.get("autoscaling_config")
    count: int = stage["num_replicas"] if scaling is None else scaling[f"{bound}_replicas"]
    return count


def nodes_needed(stages: list[Tree], group: Tree, bound: str) -> int:
    """Nodes that hold all replicas, largest demand first, first place that fits."""
    nodes: list[tuple[Amounts, list[str]]] = []
    pieces = [stage for stage in stages for _ in range(replicas(stage, bound))]
    for stage in sorted(pieces, key=lambda piece: -demand(piece)["CPU"]):
        per_node = stage.get("max_replicas_per_node", 100)
        for free, held in nodes:
            if fits(demand(stage), free) and held.count(stage["name"]) < per_node:
                break
        else:
            free, held = offer(group), []
            nodes.append((free, held))
        held.append(stage["name"])
        for resource, amount in demand(stage).items():
            free[resource] -= amount
    return len(nodes)


@pytest.mark.parametrize("name", WITH_GPU)
def test_each_stage_fits_its_own_group_and_no_other(name: str) -> None:
    groups = manifests.worker_groups(name)
    for stage, entry in serve_files.deployments_of(manifests.serve_config(name)).items():
        homes = [group for group, spec in groups.items() if fits(demand(entry), offer(spec))]
        assert homes == [PLACES[stage]], stage


@pytest.mark.parametrize("name", ALL)
def test_no_stage_fits_the_head(name: str) -> None:
    head = offer(manifests.cluster(name)["headGroupSpec"])
    for stage, entry in serve_files.deployments_of(manifests.serve_config(name)).items():
        assert not fits(demand(entry), head), stage


def test_one_small_worker_takes_every_stage_and_no_gpu() -> None:
    (group,) = manifests.worker_groups("dev").values()
    stages = list(serve_files.deployments_of(manifests.serve_config("dev")).values())
    assert "GPU" not in group["resources"]
    assert nodes_needed(stages, group, "max") == 1


@pytest.mark.parametrize(("name", "cpus", "memory_gib"), [("dev", 4, 12), ("one-node", 16, 64)])
def test_one_machine_holds_all_pods_beside_kubernetes_own(name: str, cpus: int, memory_gib: int) -> None:
    head = manifests.cluster(name)["headGroupSpec"]["template"]
    groups = manifests.worker_groups(name).values()
    templates = [head, *(group["template"] for group in groups for _ in range(group["maxReplicas"]))]
    limits = [ray_container(template)["resources"]["limits"] for template in templates]
    assert sum(quantity(limit["cpu"]) for limit in limits) <= cpus - KUBERNETES_OWN_CPUS
    assert sum(quantity(limit["memory"]) for limit in limits) <= memory_gib * 2**30 * 0.9


def test_one_machine_needs_no_storage_that_several_share() -> None:
    (claim,) = manifests.of_kind("one-node", "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert "storageClassName" not in claim["spec"]  # the cluster's own default


@pytest.mark.parametrize("bound", ["min", "max"])
@pytest.mark.parametrize("name", WITH_GPU)
def test_groups_are_as_large_as_their_stages_may_become(name: str, bound: str) -> None:
    stages = serve_files.deployments_of(manifests.serve_config(name))
    for group, spec in manifests.worker_groups(name).items():
        mine = [entry for stage, entry in stages.items() if PLACES[stage] == group]
        assert nodes_needed(mine, spec, bound) <= spec[f"{bound}Replicas"], group


@pytest.mark.parametrize("name", ALL)
def test_ray_promises_no_more_than_the_container_has(name: str) -> None:
    for group, spec in manifests.worker_groups(name).items():
        limits = ray_container(spec["template"])["resources"]["limits"]
        assert offer(spec)["CPU"] <= quantity(limits["cpu"]), group
        assert offer(spec).get("GPU", 0) == quantity(limits.get("nvidia.com/gpu", 0)), group


@pytest.mark.parametrize("name", WITH_GPU)
def test_a_model_replica_has_its_gpus_alone(name: str) -> None:
    gpu = manifests.worker_groups(name)["gpu"]
    config = manifests.serve_config(name)
    model = serve_files.deployments_of(config)["Model"]
    ranks = serve_files.arguments_of(config).engine.tensor_parallel
    assert offer(gpu)["GPU"] == demand(model)["GPU"] == ranks
    assert "sluice-gpu" in ray_container(gpu["template"])["image"]


@pytest.mark.parametrize("name", SCALED)
def test_pods_without_a_gpu_stay_off_machines_with_one(name: str) -> None:
    templates = manifests.pod_templates(name)
    for group in ("head", "entry", "media"):
        affinity = templates[group]["spec"]["affinity"]["nodeAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert {"key": "nvidia.com/gpu.present", "operator": "DoesNotExist"} in term["matchExpressions"]
        assert "nvidia.com/gpu" not in str(templates[group]["spec"].get("tolerations"))
    assert any(t["key"] == "nvidia.com/gpu" for t in templates["gpu"]["spec"]["tolerations"])


@pytest.mark.parametrize("name", ["prod", "incremental", "tensor-parallel", "encoder"])
def test_only_media_workers_may_vanish_with_a_spot_node(name: str) -> None:
    for group, template in manifests.pod_templates(name).items():
        tolerated = "sluice-spot" in str(template["spec"].get("tolerations"))
        assert tolerated == (group == "media"), group
    head = manifests.pod_templates(name)["head"]["spec"]
    assert head["nodeSelector"] == {"sluice-pool": "entry"}


@pytest.mark.parametrize("name", SCALED)
def test_stages_have_two_replicas_on_two_nodes_at_least(name: str) -> None:
    for stage in serve_files.deployments_of(manifests.serve_config(name)).values():
        assert replicas(stage, "min") >= 2
    for group, spec in manifests.worker_groups(name).items():
        spread = spec["template"]["spec"]["topologySpreadConstraints"]
        assert {"ray.io/group": group} in [s["labelSelector"]["matchLabels"] for s in spread]
        assert spec["minReplicas"] >= 2
