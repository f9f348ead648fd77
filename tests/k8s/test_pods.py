"""Each container: what it may do, what it may use, which image it runs."""

import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from deployments.ingress.http.keys import ApiKeys
from tests.k8s import manifests
from tests.k8s.manifests import ALL, BUILDS, K8S, PLAIN_BASE, ROOT, Tree, quantity, ray_container
from tests.k8s.test_schemas import KUBERNETES
from tests.support import serve_files

RAY_PIN = "ray[serve]=="


def containers(template: Tree) -> list[Tree]:
    found: list[Tree] = template["spec"].get("initContainers", []) + template["spec"]["containers"]
    return found


@pytest.mark.parametrize("name", ALL)
def test_the_namespace_takes_restricted_pods_only(name: str) -> None:
    (namespace,) = manifests.of_kind(name, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", ALL)
def test_every_pod_is_one_that_the_namespace_takes(name: str) -> None:
    for owner, template in manifests.pod_templates(name).items():
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] == pod["runAsGroup"] == (999 if owner == "sluice-redis" else 1000)
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(template):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        for volume in template["spec"].get("volumes", []):
            assert set(volume) <= {"name", "emptyDir", "persistentVolumeClaim", "configMap", "secret"}


@pytest.mark.parametrize("name", manifests.SCALED)
def test_the_autoscaler_beside_the_head_is_restricted_too(name: str) -> None:
    options = manifests.cluster(name)["autoscalerOptions"]
    assert options["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert options["resources"]["requests"] == options["resources"]["limits"]


@pytest.mark.parametrize("name", ALL)
def test_requests_are_limits_and_name_cpu_memory_and_disk(name: str) -> None:
    for template in manifests.pod_templates(name).values():
        for container in containers(template):
            resources = container["resources"]
            assert resources["requests"] == resources["limits"]
            assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["limits"])


@pytest.mark.parametrize("name", ALL)
def test_only_the_head_can_speak_to_the_kubernetes_api(name: str) -> None:
    for owner, template in manifests.pod_templates(name).items():
        assert template["spec"].get("automountServiceAccountToken", True) == (owner == "head")
        assert template["spec"]["serviceAccountName"] == ("sluice-head" if owner == "head" else "sluice-worker")


@pytest.mark.parametrize("name", BUILDS)
def test_images_are_ours_and_no_tag_floats(name: str) -> None:
    for owner, template in manifests.pod_templates(name).items():
        for container in containers(template):
            repository, _, tag = container["image"].rpartition(":")
            expected = {"sluice-redis": "redis", "gpu": "sluice-gpu"}.get(owner, "sluice-cpu")
            assert repository.rpartition("/")[2] == expected
            assert tag not in {"", "latest"}


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_installed_while_pods_run(name: str) -> None:
    assert "pip install" not in str(manifests.documents(name))
    (application,) = manifests.serve_config(name)["applications"]
    assert set(application["runtime_env"]) == {"env_vars"}  # neither packages nor code
    assert "runtime_env" not in str(application["deployments"])


def test_ray_is_the_same_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (pin,) = (entry for entry in project["dependencies"] if entry.startswith(RAY_PIN))
    assert manifests.cluster(manifests.PLAIN_BASE)["rayVersion"] == pin.removeprefix(RAY_PIN)


def test_both_images_come_from_one_base_and_run_as_uid_1000_with_what_probes_need() -> None:
    stages: dict[str, list[str]] = {}
    for line in (K8S / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("FROM "):
            words = line.split()
            stages[words[3]] = [line]
        elif stages and line and not line.startswith("#"):
            stages[list(stages)[-1]].append(line)
    assert stages["cpu"][0] == "FROM base AS cpu"
    assert stages["gpu"][0] == "FROM base AS gpu"
    for target in ("cpu", "gpu"):
        assert [line for line in stages[target] if line.startswith("USER")] == ["USER 1000:1000"]
        installs = [line for line in stages[target] if line.startswith("RUN pip install") and "--no-deps" not in line]
        assert len(installs) == 2
        assert all("-c /dist/constraints.txt" in line for line in installs)  # the same versions in both
        assert installs[1].endswith("-r /dist/requirements.txt")
    assert list(stages)[-1] == "cpu"  # what is built when no target is named
    base = " ".join(stages["base"])
    assert all(f" {package} " in base for package in ("bash", "wget", "libgl1", "libglib2.0-0", "libxcb1"))
    assert "--uid 1000" in base


def test_what_the_image_copies_is_what_the_build_context_lets_in() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        word
        for line in (K8S / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert "*" in lines
    assert copied == let_in
    assert all((ROOT / path).exists() for path in copied)


def test_the_example_secrets_are_those_that_pods_ask_for_and_not_part_of_the_build() -> None:
    examples = list(yaml.safe_load_all((K8S / "base/secrets.example.yaml").read_text(encoding="utf-8")))
    assert {example["metadata"]["name"] for example in examples} == {"sluice-redis", "sluice-hub", "sluice-api-keys"}
    assert not manifests.of_kind(manifests.PLAIN_BASE, "Secret")
    asked = str(manifests.documents(manifests.PLAIN_BASE))
    for example in examples:
        name = example["metadata"]["name"]
        assert f"'name': '{name}', 'key'" in asked or f"'secretName': '{name}'" in asked


@pytest.mark.parametrize("name", manifests.WITH_GPU)
def test_clients_keys_come_from_a_secret_that_only_the_entry_workers_see(name: str, tmp_path: Path) -> None:
    config = serve_files.arguments_of(manifests.serve_config(name)).ingress
    assert config.api_keys == ()  # whoever may read the RayService would read them
    assert config.api_keys_file is not None
    holders = {owner for owner, template in manifests.pod_templates(name).items() if "sluice-api-keys" in str(template)}
    assert holders == {"entry"}
    pod = manifests.pod_templates(name)["entry"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "api-keys")
    assert volume["secret"] == {"secretName": "sluice-api-keys", "defaultMode": 0o440}
    (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "api-keys")
    assert "subPath" not in mount  # changes of the secret would not come through
    examples = yaml.safe_load_all((K8S / "base/secrets.example.yaml").read_text(encoding="utf-8"))
    (example,) = (e for e in examples if e["metadata"]["name"] == "sluice-api-keys")
    assert str(config.api_keys_file.parent) == mount["mountPath"]
    mounted = tmp_path / config.api_keys_file.name
    mounted.write_text(example["stringData"][config.api_keys_file.name], encoding="utf-8")
    assert ApiKeys(config.model_copy(update={"api_keys_file": mounted})).know(b"change-me")


def test_the_images_have_what_traces_need() -> None:
    assert "['optional-dependencies']['tracing']" in (K8S / "Dockerfile").read_text(encoding="utf-8")


def test_the_images_install_versions_that_the_project_allows() -> None:
    lines = (K8S / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for entry in [*project["dependencies"], *project["optional-dependencies"]["tracing"]]:
        requirement = Requirement(entry)
        assert requirement.specifier.contains(pins[requirement.name]), entry


def test_the_example_quota_holds_the_base_and_the_cluster_beside_it_in_an_upgrade() -> None:
    quota, limits = yaml.safe_load_all((K8S / "base/quota.example.yaml").read_text(encoding="utf-8"))
    cluster = manifests.cluster(PLAIN_BASE)
    needed = dict.fromkeys(("cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"), 0.0)
    most = dict(needed)

    def count(resources: Tree, times: int) -> None:
        for resource in needed:
            amount = quantity(resources["limits"].get(resource, 0))
            needed[resource] += times * amount
            most[resource] = max(most[resource], amount)

    count(cluster["autoscalerOptions"]["resources"], 2)
    count(ray_container(cluster["headGroupSpec"]["template"])["resources"], 2)
    for group in cluster["workerGroupSpecs"]:
        count(ray_container(group["template"])["resources"], 2 * group["maxReplicas"])
    for name in ("sluice-redis", "sluice-model-download"):
        count(ray_container(manifests.pod_templates(PLAIN_BASE)[name])["resources"], 1)
    hard = quota["spec"]["hard"]
    for resource, amount in needed.items():
        assert amount <= quantity(hard[f"requests.{resource}"]) <= 1.1 * amount, resource
        if resource != "nvidia.com/gpu":
            assert hard[f"limits.{resource}"] == hard[f"requests.{resource}"]
            assert most[resource] <= quantity(limits["spec"]["limits"][0]["max"][resource])
    for document in (quota, limits):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
