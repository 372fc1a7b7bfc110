"""Fields that an API server refuses to change: what an upgrade must not try."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.helm.documents import Document, name_of

FIXED: dict[str, tuple[str, ...]] = {
    "Deployment": ("selector",),
    "Job": ("template", "selector", "completionMode", "podFailurePolicy", "managedBy"),
    "PersistentVolumeClaim": ("accessModes", "storageClassName", "resources", "volumeName"),
    "RayCluster": ("managedBy", "gcsFaultToleranceOptions.backend"),
    "StatefulSet": ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy"),
}
"""Paths in a spec, by kind. A claim may grow where its class allows that, which no chart knows; the
two of a RayCluster are rules of its CRD."""


def refused_changes(before: Document, after: Document) -> Iterator[str]:
    """What the server says of an object in place of another of its kind and name."""
    old, new = before.get("spec") or {}, after.get("spec") or {}
    for path in FIXED.get(after["kind"], ()):
        was, wanted = _at(old, path), _at(new, path)
        if _text(was) != _text(wanted):
            yield f"{name_of(after)}: spec.{path}: field is immutable: {_text(was)[:200]}"
    if after["kind"] == "Service" and _is_headless(old) != _is_headless(new):
        yield f"{name_of(after)}: spec.clusterIP: field is immutable"


def _is_headless(spec: dict[str, Any]) -> bool:
    return spec.get("clusterIP") == "None"


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
