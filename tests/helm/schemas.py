"""Schemas of what the chart makes: Kubernetes' own, strict, and those of KubeRay's CRDs."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from tests.helm.documents import Document, as_pod, name_of, pods
from tests.helm.engines import KUBE_VERSIONS, ROOT

CRDS_VARIABLE = "TANDEM_CRDS"
UNCHECKED = (
    "monitoring.coreos.com/",
    "cert-manager.io/",
    "gateway.networking.k8s.io/",
    "keda.sh/",
)
"""Kinds whose schemas are not at hand; what they refer to is checked all the same."""


def crds_folder() -> Path | None:
    """Where KubeRay's CRDs lie as JSON; None where they are not."""
    folder = Path(os.environ.get(CRDS_VARIABLE, ROOT.parent / "shared" / "data" / "crds"))
    return folder if (folder / "ray.io_rayclusters.json").is_file() else None


def schema_problems(
    documents: list[Document], versions: tuple[str, ...] = KUBE_VERSIONS
) -> Iterator[str]:
    for document in documents:
        if document["apiVersion"].startswith("ray.io/"):
            yield from _ray_problems(document)
        elif not document["apiVersion"].startswith(UNCHECKED):
            yield from _kube_problems(document, name_of(document), versions)
    for pod in pods(documents):
        if pod.kind.startswith("Ray"):
            yield from _kube_problems(as_pod(pod), pod.owner, versions)


def _kube_problems(document: Document, name: str, versions: tuple[str, ...]) -> Iterator[str]:
    for version in versions:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            yield f"{name}: Kubernetes {version}: {path}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{name}: Kubernetes {version} has no {document['apiVersion']}"


def _ray_problems(document: Document) -> Iterator[str]:
    folder = crds_folder()
    if folder is None:
        return
    validator = _ray_validator(folder, document["kind"])
    for error in validator.iter_errors(document):
        path = ".".join(str(part) for part in error.path)
        yield f"{name_of(document)}: {path}: {error.message}"


@functools.cache
def _ray_validator(folder: Path, kind: str) -> jsonschema.Draft7Validator:
    definition = json.loads((folder / f"ray.io_{kind.lower()}s.json").read_text())
    (version,) = [it for it in definition["spec"]["versions"] if it["name"] == "v1"]
    return jsonschema.Draft7Validator(_closed(version["schema"]["openAPIV3Schema"]))


def _closed(schema: Any) -> Any:
    """As the API server reads it: fields that it does not know are errors."""
    if isinstance(schema, list):
        return [_closed(it) for it in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        closed.pop("type", None)
        closed.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") is True
    if isinstance(schema.get("properties"), dict) and not open_ended:
        closed.setdefault("additionalProperties", False)
    return closed
