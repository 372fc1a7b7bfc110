"""Rendered documents: read strictly, and looked through for pods."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.helm.engines import CHART

Document = dict[str, Any]


class _StrictLoader(yaml.CSafeLoader):
    """A key that comes twice is an error: the latter would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"{node.start_mark}: twice the key {', '.join(twice)}")
        return super().construct_mapping(node, deep)


_StrictLoader.add_constructor(
    "tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node, deep=True)
)


def read_documents(text: str) -> list[Document]:
    """Raises yaml.YAMLError. In an order that both engines share."""
    found = [it for it in yaml.load_all(text, _StrictLoader) if it]
    return sorted(found, key=lambda it: (it["kind"], it["metadata"]["name"]))


def read_values(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(), _StrictLoader) or {}


def ci_values() -> dict[str, dict[str, Any]]:
    """By name."""
    files = sorted((CHART / "ci").glob("*-values.yaml"))
    return {file.name.removesuffix("-values.yaml"): read_values(file) for file in files}


class PodTemplate(NamedTuple):
    owner: str
    kind: str
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.spec["containers"]
        return found

    @property
    def all_containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.containers]


def name_of(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def pods(documents: list[Document]) -> Iterator[PodTemplate]:
    for document in documents:
        for where, kind, template in _templates(document):
            metadata = template["metadata"]
            yield PodTemplate(
                f"{name_of(document)}{where}",
                kind,
                metadata.get("labels", {}),
                metadata.get("annotations", {}),
                template["spec"],
            )


def _templates(document: Document) -> Iterator[tuple[str, str, Document]]:
    kind, spec = document["kind"], document.get("spec", {})
    if kind == "Pod":
        yield "", "Pod", document
    elif kind in ("Deployment", "Job"):
        yield "", kind, spec["template"]
    elif kind == "RayCluster":
        yield " head", "RayHead", spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            yield f" {group['groupName']}", "RayWorker", group["template"]


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def as_pod(pod: PodTemplate) -> Document:
    """A Pod of its own, for validators that look only into those."""
    metadata = {"name": "pod", "labels": pod.labels, "annotations": pod.annotations}
    spec = copy.deepcopy(pod.spec)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
