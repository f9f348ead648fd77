"""Makes the chart's templates from k8s/base: `python k8s/helm/generate.py`. Run it when the base has changed.

Every object is taken as it stands there; what `values.yaml` holds goes into its place. Comments stay in the base.
"""

import re
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent
BASE = CHART.parent / "base"
LEFT_OUT = frozenset({"namespace.yaml"})
"""Helm installs into a namespace that exists; its labels are in the README."""
HEADER = "# Made from k8s/base/{name} by generate.py.\n"
PART_OF = {"app.kubernetes.io/part-of": "sluice"}

Tree = dict[str, Any]


def templates() -> dict[str, str]:
    """The text of each template by its file name."""
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))
    return {name: _template(name) for name in kustomization["resources"] if name not in LEFT_OUT}


def serve_config() -> str:
    """The Serve config that the chart carries: the base's own, MODEL_ID and all."""
    return (BASE / "serve_config.yaml").read_text(encoding="utf-8")


def _template(name: str) -> str:
    documents = list(yaml.safe_load_all((BASE / name).read_text(encoding="utf-8")))
    for document in documents:
        document["metadata"]["labels"] = document["metadata"].get("labels", {}) | PART_OF
        _with_images(document)
        if document["kind"] in PLACES:
            PLACES[document["kind"]](document)
    text = "---\n".join(yaml.dump(document, Dumper=_Plain, sort_keys=False, width=1000) for document in documents)
    return HEADER.format(name=name) + "\n".join(_worded(line) for line in text.splitlines()) + "\n"


class _Plain(yaml.SafeDumper):
    """No anchors: templates are read by people."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _value(path: str) -> str:
    return f"@value .Values.{path}"


def _with_images(node: object) -> None:
    if isinstance(node, list):
        for each in node:
            _with_images(each)
    elif isinstance(node, dict):
        if node.get("image") in ("sluice-cpu", "sluice-gpu"):
            node["image"] = f"@image .Values.images.{node['image'].removeprefix('sluice-')}"
        for each in node.values():
            _with_images(each)


def _config_map(document: Tree) -> None:
    document["data"]["MODEL_ID"] = _value("model")


def _claim(document: Tree) -> None:
    spec = document["spec"]
    spec["accessModes"] = [_value("models.accessMode")]
    spec["resources"]["requests"]["storage"] = _value("models.size")
    spec["storageClassName"] = "@with .Values.models.storageClassName"


def _ingress(document: Tree) -> None:
    spec = document["spec"]
    spec["rules"][0]["host"] = _value("ingress.host")
    spec["tls"] = [{"hosts": [_value("ingress.host")], "secretName": _value("ingress.tlsSecret")}]
    spec["ingressClassName"] = "@with .Values.ingress.className"


def _ray_service(document: Tree) -> None:
    document["spec"]["serveConfigV2"] = "@serve"
    cluster = document["spec"]["rayClusterConfig"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    head["containers"][0]["resources"] = "@yaml .Values.head.resources"
    head["nodeSelector"] = "@withyaml .Values.head.nodeSelector"
    for group in cluster["workerGroupSpecs"]:
        name = group["groupName"]
        group["minReplicas"], group["maxReplicas"] = _value(f"{name}.minReplicas"), _value(f"{name}.maxReplicas")
        group["template"]["spec"]["nodeSelector"] = f"@withyaml .Values.{name}.nodeSelector"


PLACES = {
    "ConfigMap": _config_map,
    "Ingress": _ingress,
    "PersistentVolumeClaim": _claim,
    "RayService": _ray_service,
}
_MARK = re.compile(r"(?P<head>\s*(?:- )?(?:[\w-]+: )?)'@(?P<how>\w+)(?: (?P<path>[\w.]+))?'")


def _worded(line: str) -> str:
    """A line whose value is a mark, in Helm's language."""
    match = _MARK.fullmatch(line)
    if match is None:
        return line
    head, path = match["head"], match["path"]
    indent = len(head) - len(head.lstrip()) + 2
    serve = '.Values.serveConfig | default (.Files.Get "serve_config.yaml") | replace "MODEL_ID" .Values.model'
    return {
        "value": f"{head}{{{{ {path} }}}}",
        "image": f"{head}{{{{ .Values.images.{(path or '').split('.')[-1]} }}}}:{{{{ .Values.images.tag }}}}",
        "with": f"{{{{- with {path} }}}}\n{head}{{{{ . }}}}\n{{{{- end }}}}",
        "yaml": f"{head.rstrip()}\n{{{{ toYaml {path} | indent {indent} }}}}",
        "withyaml": f"{{{{- with {path} }}}}\n{head.rstrip()}\n{{{{ toYaml . | indent {indent} }}}}\n{{{{- end }}}}",
        "serve": f"{head}|\n{{{{ {serve} | indent {indent} }}}}",
    }[match["how"]]


def main() -> None:
    for name, text in templates().items():
        (CHART / "templates" / name).write_text(text, encoding="utf-8")
    (CHART / "serve_config.yaml").write_text(serve_config(), encoding="utf-8")


if __name__ == "__main__":
    main()
