"""Schemas of what the chart makes: Kubernetes' own, strict, and those of KubeRay's CRDs."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
from kubernetes_validate.utils import all_versions, major_minor, schema_contents
from referencing import Registry, Resource

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
    text = json.dumps(document, sort_keys=True)
    for version in versions:
        if problem := _kube_problem(text, version):
            yield f"{name}: Kubernetes {version}{problem}"


@functools.lru_cache(maxsize=8192)
def _kube_problem(text: str, version: str) -> str | None:
    """Most documents come again: in other tests, with other engines, after other defects."""
    document = json.loads(text)
    try:
        validator = _kube_validator(document["apiVersion"], document["kind"], version)
    except FileNotFoundError:
        return f" has no {document['apiVersion']} {document['kind']}"
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is None:
        return None
    return f": {'.'.join(str(part) for part in error.path)}: {error.message}"


@functools.cache
def _kube_validator(api_version: str, kind: str, version: str) -> jsonschema.Draft202012Validator:
    """As kubernetes_validate.validate makes it, which does so for every document. Raises
    FileNotFoundError for a kind that the version does not have."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)  # the file's name for it
    folder, definitions = _kube_definitions(version)
    schema = schema_contents(f"{folder}/{kind.lower()}-{group}.json", version)
    registry = Resource.from_contents(schema) @ definitions
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _kube_definitions(version: str) -> tuple[str, Any]:
    """Where the schemas of a version are, and what they share."""
    (whole,) = {it for it in all_versions() if major_minor(it) == version}
    folder = f"kubernetes-json-schema/v{whole}-local-strict"
    shared = schema_contents(f"{folder}/_definitions.json", version)
    return folder, Resource.from_contents(shared) @ Registry()


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
