"""The fake API server refuses what a real one does: what the other tests here rest on."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.helm.documents import Document
from tests.helm.fake_api.kinds import KINDS
from tests.helm.fake_api.store import Refused, Store

pytestmark = pytest.mark.quick

POD = {"containers": [{"name": "one", "image": "one:1"}]}
TEMPLATE = {"metadata": {"labels": {"app": "one"}}, "spec": POD}
JOB_TEMPLATE = {**TEMPLATE, "spec": {**POD, "restartPolicy": "Never"}}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
SPECS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Deployment": (
        {"selector": {"matchLabels": {"app": "one"}}, "template": TEMPLATE},
        {"selector": {"matchLabels": {"app": "two"}}},
    ),
    "Job": ({"template": JOB_TEMPLATE}, {"template": {"metadata": {"labels": {"new": "1"}}}}),
    "PersistentVolumeClaim": (CLAIM, {"storageClassName": "fast"}),
    "Service": ({"clusterIP": "None", "ports": [{"port": 1}]}, {"clusterIP": "10.0.0.9"}),
}
"""A spec, and a change that is refused."""


@pytest.mark.parametrize("name", SPECS)
def test_a_server_refuses_to_change_what_is_fixed(name: str) -> None:
    spec, change = SPECS[name]
    (kind,) = [it for it in KINDS if it.name == name]
    store = Store(lambda pod: True)
    document: Document = {
        "apiVersion": kind.group_version,
        "kind": name,
        "metadata": {"name": "one"},
        "spec": copy.deepcopy(spec),
    }
    store.create(kind, "here", document)
    store.patch(kind, "here", "one", {"metadata": {"labels": {"team": "one"}}})
    with pytest.raises(Refused, match="immutable"):
        store.patch(kind, "here", "one", {"spec": change})
