"""The chart is the base: the same objects with its own values, and what a value changes."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.k8s import helm, manifests
from tests.k8s.manifests import PLAIN_BASE, Tree
from tests.k8s.test_schemas import KUBERNETES, NATIVE

HELM = shutil.which("helm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
"""That of the test dependencies, where they have one for the machine, or the machine's own."""
IMAGES = {"sluice-cpu": "registry.example.com/sluice-cpu:0.1.0", "sluice-gpu": "registry.example.com/sluice-gpu:0.1.0"}


def by_name(documents: list[Tree]) -> dict[tuple[str, str], Tree]:
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", helm.CHART / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected() -> dict[tuple[str, str], Any]:
    """The base as the chart should make it: with names of images, a label on all, and no namespace of its own."""
    found: dict[tuple[str, str], Any] = {}
    for document in manifests.documents(PLAIN_BASE):
        if document["kind"] != "Namespace":
            text = yaml.safe_dump(document)
            for name, image in IMAGES.items():
                text = text.replace(f"image: {name}\n", f"image: {image}\n")
            copy = yaml.safe_load(text)
            labels = copy["metadata"].get("labels", {})
            copy["metadata"]["labels"] = labels | {"app.kubernetes.io/part-of": "sluice"}
            found |= by_name([copy])
    return found


def compared(documents: list[Tree]) -> dict[tuple[str, str], Any]:
    """With the Serve config read: its quotes and line ends are nothing that differs."""
    found = by_name(yaml.safe_load(yaml.safe_dump(documents)))
    service = found["RayService", "sluice"]
    service["spec"]["serveConfigV2"] = yaml.safe_load(service["spec"]["serveConfigV2"])
    return found


def test_with_its_own_values_the_chart_is_the_base() -> None:
    assert compared(helm.rendered(helm.values())) == compared(list(expected().values()))


def test_the_templates_are_made_from_the_base_as_it_is() -> None:
    made = generator()
    here = {path.name: path.read_text(encoding="utf-8") for path in helm.CHART.glob("templates/*.yaml")}
    assert here == made.templates(), "run `python k8s/helm/generate.py`"
    assert (helm.CHART / "serve_config.yaml").read_text(encoding="utf-8") == made.serve_config()


def test_a_value_changes_what_it_names_wherever_that_stands() -> None:
    changed = helm.values(
        model="org/other",
        images={"tag": "9"},
        models={"accessMode": "ReadWriteOnce", "storageClassName": "fast"},
        ingress={"host": "ask.example.org", "className": "public"},
        gpu={"maxReplicas": 7, "nodeSelector": {"pool": "gpu"}},
    )
    found = by_name(helm.rendered(changed))
    service = found["RayService", "sluice"]
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    assert found["ConfigMap", "sluice-model"]["data"]["MODEL_ID"] == application["args"]["model"] == "org/other"
    assert "sluice-gpu:9" in yaml.safe_dump(service)
    assert ":0.1.0" not in yaml.safe_dump(list(found.values()))
    (group,) = (g for g in service["spec"]["rayClusterConfig"]["workerGroupSpecs"] if g["groupName"] == "gpu")
    assert (group["maxReplicas"], group["template"]["spec"]["nodeSelector"]) == (7, {"pool": "gpu"})
    claim = found["PersistentVolumeClaim", "sluice-models"]["spec"]
    assert (claim["accessModes"], claim["storageClassName"]) == (["ReadWriteOnce"], "fast")
    ingress = found["Ingress", "sluice"]["spec"]
    assert (ingress["rules"][0]["host"], ingress["ingressClassName"]) == ("ask.example.org", "public")
    for document in found.values():
        if document["kind"] in NATIVE:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_serve_config_of_ones_own_takes_the_place_of_the_charts() -> None:
    own = "applications:\n  - name: sluice\n    args: {model: MODEL_ID, device: cpu}\n"
    service = by_name(helm.rendered(helm.values(serveConfig=own)))["RayService", "sluice"]
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    assert application["args"] == {"model": helm.values()["model"], "device": "cpu"}


@pytest.mark.skipif(HELM is None, reason="no helm here")
def test_helm_itself_finds_no_fault_and_makes_the_same() -> None:
    assert HELM is not None
    subprocess.run([HELM, "lint", "--strict", str(helm.CHART)], check=True, capture_output=True, timeout=60)
    command = [HELM, "template", "sluice", str(helm.CHART), "--namespace", "sluice", "--kube-version", "1.31.0"]
    made = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    documents = [document for document in yaml.safe_load_all(made) if document]
    assert compared(documents) == compared(helm.rendered(helm.values()))
