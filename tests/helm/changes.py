"""One change after the other: each value of the chart set to another that its schema allows."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.helm.engines import CHART

POOL_OF_MODEL = {"own": {"role": "decode", "model": "model"}}
OTHER: dict[str, Any] = {
    "model.pvc.claim": "other",
    "model.path": "/other",
    "model.hf.repo": "other/model",
    "model.hf.endpoint": "https://hub.example.com:8443",
    "model.hf.podLimit": "20Gi",
    "model.hf.claim.size": "300Gi",
    "model.hf.claim.accessModes": ["ReadWriteOnce"],
    "models": {"second": {"hf": {"repo": "second/model"}}},
    "pools": {"third": {"role": "decode"}},
    "router.ports.http": 8100,
    "router.ports.grpc": 8101,
    "poolDefaults.rayResources": {"rack": 1},
    "poolDefaults.gpus.count": 2,
    "poolDefaults.onNodesOf": "prefill",
    "ray.version": "9.9.9",
    "ray.extraSpec": {"managedBy": "kueue.x-k8s.io/multikueue"},
    "tls.certManager.duration": "100h",
    "tls.certManager.issuerRef": {"name": "other"},
    "containerSecurityContext": {"privileged": False},
    "podSecurityContext": {"supplementalGroups": [1]},
    "images.worker.digest": f"sha256:{'1' * 64}",
    "images.router.digest": f"sha256:{'1' * 64}",
    "poolDefaults.resources": {"limits": {"memory": "5Gi"}},
    "worker.settings": {"chunk_tokens": 64},
    "poolDefaults.settings": {"chunk_tokens": 64},
    "router.settings": {"split": "always"},
    "poolDefaults.gpus.resourceName": "amd.com/gpu",
    "poolDefaults.rdma.resources": {"rdma/ib": 1},
    "network.listen": "0.0.0.0",
    "nameOverride": "other",
    "commonLabels": {"team": "other"},
}
"""Where the schema alone does not say what makes sense."""
GOES_WITH: dict[str, dict[str, Any]] = {
    "model.hostPath": {"model": {"source": "path"}},
    "models": {"pools": {"second": {"role": "decode", "model": "second"}}},
    "poolDefaults.model": {"models": {"other": {"path": "/other"}}, "pools": POOL_OF_MODEL},
    "poolDefaults.autoscaling.enabled": {
        "launcher": "pods",
        "poolDefaults": {"autoscaling": {"external": True}},
    },
    "poolDefaults.gpus.count": {"worker": {"settings": {"tensor_parallel_size": 2}}},
    "poolDefaults.rdma.resources": {"poolDefaults": {"rdma": {"enabled": True}}},
    "poolDefaults.numOfHosts": {"launcher": "ray"},
    "poolDefaults.workersPerNode": {"launcher": "ray"},
    "poolDefaults.onNodesOf": {"launcher": "ray", "pools": {"prefill": {"onNodesOf": ""}}},
    "tls.door.enabled": {"tls": {"door": {"secretName": "given"}}},
    "tls.internal.enabled": {"tls": {"internal": {"secretName": "given"}}},
    "tls.certManager.enabled": {
        "tls": {"internal": {"enabled": True}, "certManager": {"issuerRef": {"name": "given"}}}
    },
    "apiKeys.secretName": {"test": {"keySecret": {"name": "given"}}},
    "ingress.enabled": {"ingress": {"hosts": ["given.example.com"]}},
    "gateway.enabled": {"gateway": {"parentRefs": [{"name": "given"}]}},
}
"""What a change needs beside it, or the chart refuses it."""
LIST_ITEM = {
    "extraEnv": {"name": "OTHER", "value": "1"},
    "extraEnvFrom": {"configMapRef": {"name": "other"}},
    "extraVolumes": {"name": "other", "emptyDir": {}},
    "extraVolumeMounts": {"name": "tmp", "mountPath": "/other"},
    "tolerations": {"operator": "Exists"},
}


def changed_values() -> Iterator[tuple[str, dict[str, Any]]]:
    """The path of each value, and values in which it is another than the default, with no more
    beside it than the chart asks for."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for path, value in _leaves(defaults, schema, schema, ""):
        yield path, over(_nested(path, value), GOES_WITH.get(path, {}))


def over(base: Any, change: Any) -> Any:
    """`change` merged into `base`, as Helm merges values."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return copy.deepcopy(change)
    return {**base, **{key: over(base.get(key), value) for key, value in change.items()}}


def _leaves(value: Any, schema: Any, root: Any, path: str) -> Iterator[tuple[str, Any]]:
    while "$ref" in schema:
        schema = root["definitions"][schema["$ref"].rpartition("/")[2]]
    if path in OTHER:
        yield path, OTHER[path]
        return
    inner = schema.get("properties")
    if isinstance(value, dict) and inner and value:
        for key, one in value.items():
            below = f"{path}.{key}" if path else key
            yield from _leaves(one, inner.get(key, {}), root, below)
    else:
        yield path, _another(value, schema, path.rpartition(".")[2])


def _another(value: Any, schema: Any, key: str) -> Any:
    if "enum" in schema:
        return next(it for it in schema["enum"] if it != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, float) or (isinstance(value, int) and schema.get("maximum") == 1):
        return value / 2
    if isinstance(value, int):
        return value + 1 if value else 2048
    if isinstance(value, list):
        return [*value, LIST_ITEM.get(key, _item(schema))]
    if isinstance(value, dict):
        return {**value, "other": "1"}
    return _text(str(value), schema)


def _item(schema: Any) -> Any:
    kind = str(schema.get("items", {}).get("type"))
    return {"string": "other", "integer": 4000}.get(kind, {"name": "other"})


def _text(value: str, schema: Any) -> str:
    pattern = schema.get("pattern", "")
    if "https?://" in pattern:
        return "http://proxy.example.com:3128"
    if "[EPTGMk]" in pattern:
        return "3Gi"
    if "(ms|s|m|h)" in pattern:
        return "7s"
    return f"{value}-2" if value else "other"


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)
