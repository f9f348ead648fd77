"""Every object is one that its API takes, field by field."""

import json
from collections import Counter

import jsonschema
import kubernetes_validate
import pytest

from tests.k8s import manifests
from tests.k8s.manifests import ALL, BUILDS, ROOT

RAY_SERVICE_SCHEMA = ROOT.parent / "shared/kuberay/rayservice-v1.schema.json"
KUBERNETES = "1.33"

NATIVE = {
    "ConfigMap": "v1",
    "Ingress": "networking.k8s.io/v1",
    "Job": "batch/v1",
    "Namespace": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PersistentVolumeClaim": "v1",
    "PodDisruptionBudget": "policy/v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "StatefulSet": "apps/v1",
}
CUSTOM = {
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "RayService": "ray.io/v1",
}
SMALL = {"Namespace": 1, "ServiceAccount": 2, "NetworkPolicy": 8, "RayService": 1}
BASE = SMALL | {
    "ConfigMap": 1,
    "Ingress": 1,
    "Job": 1,
    "NetworkPolicy": 9,
    "PersistentVolumeClaim": 1,
    "PodDisruptionBudget": 3,
    "Service": 1,
    "StatefulSet": 1,
}
ONE_NODE = SMALL | {"ConfigMap": 1, "Ingress": 1, "Job": 1, "PersistentVolumeClaim": 1}
PROD = BASE | {"ConfigMap": 2, "PodMonitor": 2, "PrometheusRule": 1}
INCREMENTAL = {kind: count for kind, count in PROD.items() if kind != "Ingress"} | {"NetworkPolicy": 10}
EXPECTED = {
    manifests.PLAIN_BASE: BASE,
    "base": BASE,
    "dev": SMALL,
    "one-node": ONE_NODE,
    "prod": PROD,
    "incremental": INCREMENTAL,
    "tensor-parallel": PROD,
    "encoder": PROD,
}


@pytest.mark.parametrize("name", ALL)
def test_a_build_holds_the_objects_it_should_and_no_others(name: str) -> None:
    assert Counter(d["kind"] for d in manifests.documents(name)) == EXPECTED[name]
    for document in manifests.documents(name):
        assert document["apiVersion"] == (NATIVE | CUSTOM)[document["kind"]]


@pytest.mark.parametrize("name", ALL)
def test_native_objects_have_known_fields_only(name: str) -> None:
    for document in manifests.documents(name):
        if document["kind"] in NATIVE:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ALL)
def test_pod_templates_of_ray_are_pods(name: str) -> None:
    for template in manifests.pod_templates(name).values():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_a_misspelt_field_of_a_pod_is_noticed() -> None:
    spec = {"containers": [{"name": "x", "image": "x", "resurces": {}}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    with pytest.raises(kubernetes_validate.ValidationError, match="resurces"):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ALL)
def test_the_ray_service_is_what_the_operator_takes(name: str) -> None:
    if not RAY_SERVICE_SCHEMA.exists():
        pytest.skip("no schema of RayService here")
    schema = json.loads(RAY_SERVICE_SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(manifests.ray_service(name))


@pytest.mark.parametrize("name", BUILDS)
def test_everything_lives_in_the_one_namespace(name: str) -> None:
    for document in manifests.documents(name):
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "sluice", document["metadata"]["name"]


@pytest.mark.parametrize("name", ALL)
def test_references_between_objects_lead_somewhere(name: str) -> None:
    known = {(d["kind"], d["metadata"]["name"]) for d in manifests.documents(name)}
    for template in manifests.pod_templates(name).values():
        assert ("ServiceAccount", template["spec"]["serviceAccountName"]) in known
        for volume in template["spec"].get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or ("PersistentVolumeClaim", claim) in known
        for container in template["spec"].get("initContainers", []) + template["spec"]["containers"]:
            for entry in container.get("env", []):
                source = entry.get("valueFrom", {}).get("configMapKeyRef")
                assert source is None or ("ConfigMap", source["name"]) in known
