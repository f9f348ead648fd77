"""The manifests as a cluster would get them: each overlay built by `kubectl kustomize`, and what is inside them.

Without kubectl the base is read from its plain files, with the Serve config put in place as the kustomization says; the
overlays are skipped.
"""

import functools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

Tree = dict[str, Any]

ROOT = Path(__file__).parent.parent.parent
K8S = ROOT / "k8s"
PLAIN_BASE = "base, its plain files"
BUILDS = {
    "base": "base",
    "dev": "overlays/dev",
    "one-node": "overlays/one-node",
    "prod": "overlays/prod",
    "incremental": "overlays/incremental-upgrade",
    "tensor-parallel": "overlays/tensor-parallel",
    "encoder": "overlays/encoder",
}
ALL = (PLAIN_BASE, *BUILDS)
WITH_GPU = tuple(name for name in ALL if name != "dev")
SMALL = ("dev", "one-node")
"""One node's: nothing that needs several, nor room for a second cluster."""
SCALED = tuple(name for name in ALL if name not in SMALL)

_UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@functools.cache
def documents(name: str) -> tuple[Tree, ...]:
    """All objects of a build; skips the test where it can't be made."""
    if name == PLAIN_BASE:
        return _plain_base()
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here: overlays are not built")
    command = [kubectl, "kustomize", str(K8S / BUILDS[name])]
    built = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert built.returncode == 0, built.stderr
    return tuple(yaml.safe_load_all(built.stdout))


def of_kind(name: str, kind: str) -> list[Tree]:
    return [document for document in documents(name) if document["kind"] == kind]


def named(name: str, kind: str, object_name: str) -> Tree:
    (found,) = (d for d in of_kind(name, kind) if d["metadata"]["name"] == object_name)
    return found


def ray_service(name: str) -> Tree:
    (service,) = of_kind(name, "RayService")
    return service


def cluster(name: str) -> Tree:
    config: Tree = ray_service(name)["spec"]["rayClusterConfig"]
    return config


def worker_groups(name: str) -> dict[str, Tree]:
    return {group["groupName"]: group for group in cluster(name)["workerGroupSpecs"]}


def serve_config(name: str) -> Tree:
    config: Tree = yaml.safe_load(ray_service(name)["spec"]["serveConfigV2"])
    return config


def pod_templates(name: str) -> dict[str, Tree]:
    """Every pod template of a build, by what it is of: Ray's groups, jobs, stateful sets."""
    templates = {"head": cluster(name)["headGroupSpec"]["template"]}
    templates |= {group: spec["template"] for group, spec in worker_groups(name).items()}
    for kind in ("Job", "StatefulSet", "Deployment"):
        templates |= {d["metadata"]["name"]: d["spec"]["template"] for d in of_kind(name, kind)}
    return templates


def ray_container(template: Tree) -> Tree:
    """Ray's container is the first one."""
    container: Tree = template["spec"]["containers"][0]
    return container


def environment(container: Tree) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}


def quantity(text: str | int) -> float:
    """A Kubernetes quantity in its base unit: bytes, CPUs, pieces."""
    match = re.fullmatch(r"([0-9.]+)(m|Ki|Mi|Gi|Ti)?", str(text))
    assert match, f"{text!r} is no quantity that these manifests use"
    return float(match[1]) * _UNITS[match[2] or ""]


def _plain_base() -> tuple[Tree, ...]:
    kustomization = yaml.safe_load((K8S / "base/kustomization.yaml").read_text(encoding="utf-8"))
    found: list[Tree] = []
    for file in kustomization["resources"]:
        found += yaml.safe_load_all((K8S / "base" / file).read_text(encoding="utf-8"))
    (service,) = (document for document in found if document["kind"] == "RayService")
    (model,) = (document for document in found if document["metadata"]["name"] == "sluice-model")
    serve_config = (K8S / "base/serve_config.yaml").read_text(encoding="utf-8").split("'")
    serve_config[1] = model["data"]["MODEL_ID"]  # as the kustomization's replacement does
    service["spec"]["serveConfigV2"] = "'".join(serve_config)
    return tuple(found)
