"""The kinds that the server knows, and what discovery and OpenAPI tell of them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Kind(NamedTuple):
    group_version: str
    plural: str
    name: str
    namespaced: bool = True

    @property
    def root(self) -> str:
        """The first part of its paths."""
        return f"/apis/{self.group_version}" if "/" in self.group_version else "/api/v1"


KINDS = (
    Kind("v1", "namespaces", "Namespace", False),
    Kind("v1", "configmaps", "ConfigMap"),
    Kind("v1", "secrets", "Secret"),
    Kind("v1", "services", "Service"),
    Kind("v1", "serviceaccounts", "ServiceAccount"),
    Kind("v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    Kind("v1", "pods", "Pod"),
    Kind("v1", "events", "Event"),
    Kind("apps/v1", "deployments", "Deployment"),
    Kind("apps/v1", "replicasets", "ReplicaSet"),
    Kind("batch/v1", "jobs", "Job"),
    Kind("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Kind("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    Kind("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
    Kind("networking.k8s.io/v1", "ingresses", "Ingress"),
    Kind("ray.io/v1", "rayclusters", "RayCluster"),
    Kind("monitoring.coreos.com/v1", "servicemonitors", "ServiceMonitor"),
    Kind("monitoring.coreos.com/v1", "podmonitors", "PodMonitor"),
    Kind("monitoring.coreos.com/v1", "prometheusrules", "PrometheusRule"),
    Kind("cert-manager.io/v1", "certificates", "Certificate"),
    Kind("gateway.networking.k8s.io/v1", "httproutes", "HTTPRoute"),
    Kind("gateway.networking.k8s.io/v1", "grpcroutes", "GRPCRoute"),
)
VERSION = {"major": "1", "minor": "31", "gitVersion": "v1.31.0", "platform": "linux/amd64"}


def discovery(path: str) -> dict[str, Any] | None:
    """What /version, /api and /apis answer; None for other paths."""
    if path == "/version":
        return VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": _groups()}
    kinds = [kind for kind in KINDS if kind.root == path]
    if not kinds:
        return None
    resources = [
        {
            "name": kind.plural,
            "singularName": kind.name.lower(),
            "kind": kind.name,
            "namespaced": kind.namespaced,
            "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        }
        for kind in kinds
    ]
    version = kinds[0].group_version
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def _groups() -> list[dict[str, Any]]:
    versions = dict.fromkeys(kind.group_version for kind in KINDS if "/" in kind.group_version)
    groups = []
    for version in versions:
        entry = {"groupVersion": version, "version": version.split("/")[1]}
        groups.append(
            {"name": version.split("/")[0], "versions": [entry], "preferredVersion": entry}
        )
    return groups


def openapi(path: str) -> dict[str, Any] | None:
    """As much of OpenAPI as tells clients to leave checking of fields to the server."""
    roots = dict.fromkeys(kind.root for kind in KINDS)
    if path == "/openapi/v3":
        urls = {root[1:]: {"serverRelativeURL": f"/openapi/v3{root}?hash=0"} for root in roots}
        return {"paths": urls}
    root = path.removeprefix("/openapi/v3")
    if root == path or root not in roots:
        return None
    paths = {}
    for kind in KINDS:
        if kind.root == root:
            group, _, version = kind.group_version.rpartition("/")
            operation = {
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": {
                    "group": group,
                    "version": version,
                    "kind": kind.name,
                },
                "parameters": [
                    {"name": name, "in": "query", "schema": {"type": "string"}}
                    for name in ("dryRun", "fieldValidation")
                ],
                "responses": {},
            }
            paths[f"{root}/{kind.plural}/{{name}}"] = {"patch": operation}
    return {"openapi": "3.0.0", "info": {"title": "fake", "version": "1"}, "paths": paths}
