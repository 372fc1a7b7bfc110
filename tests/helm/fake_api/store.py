"""The objects of a fake API server, their history, and the controllers that act at once."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tests.helm.documents import Document
from tests.helm.fake_api.immutable import refused_changes
from tests.helm.fake_api.kinds import KINDS, Kind
from tests.helm.schemas import schema_problems

NOW = "2026-01-01T00:00:00Z"
CHECKED_AGAINST = ("1.31",)

Key = tuple[str, str, str]  # plural, namespace, name


class Refused(Exception):
    """A status other than success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Store:
    """Thread-safe. `run_pod(pod)` says whether a pod that was created succeeds."""

    def __init__(self, run_pod: Callable[[Document], bool]) -> None:
        self._run_pod = run_pod
        self._objects: dict[Key, Document] = {}
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self.version = 0
        self.events: list[tuple[int, str, str, Document]] = []
        """(version, ADDED, MODIFIED or DELETED, plural, object)"""

    def get(self, kind: Kind, namespace: str, name: str) -> Document:
        with self._changed:
            found = self._objects.get((kind.plural, namespace, name))
            if found is None:
                raise Refused(404, "NotFound", f'{kind.plural} "{name}" not found')
            return copy.deepcopy(found)

    def list(
        self, kind: Kind, namespace: str, wanted: Callable[[Document], bool] = lambda it: True
    ) -> list[Document]:
        with self._changed:
            found = [
                copy.deepcopy(document)
                for (plural, home, _), document in self._objects.items()
                if plural == kind.plural and namespace in ("", home)
            ]
        return [document for document in found if wanted(document)]

    def create(self, kind: Kind, namespace: str, document: Document) -> Document:
        name = document["metadata"].get("name") or ""
        with self._changed:
            if (kind.plural, namespace, name) in self._objects:
                raise Refused(409, "AlreadyExists", f'{kind.plural} "{name}" already exists')
        _admit(document)
        return self._put(kind, namespace, document, "ADDED")

    def replace(self, kind: Kind, namespace: str, document: Document) -> Document:
        _admit(document, self.get(kind, namespace, document["metadata"]["name"]))
        return self._put(kind, namespace, document, "MODIFIED")

    def patch(
        self, kind: Kind, namespace: str, name: str, patch: Document, *, strategic: bool = False
    ) -> Document:
        before = self.get(kind, namespace, name)
        after = (strategically_merged if strategic else merged)(before, patch)
        _admit(after, before)
        return self._put(kind, namespace, after, "MODIFIED")

    def delete(self, kind: Kind, namespace: str, name: str) -> Document:
        document = self.get(kind, namespace, name)
        with self._changed:
            del self._objects[(kind.plural, namespace, name)]
            self._record("DELETED", kind, document)
        return document

    def wait(self, seen: int, timeout_s: float) -> Iterator[tuple[int, str, str, Document]]:
        """Events after the first `seen`; none when none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.events) > seen, timeout_s)
            return iter(self.events[seen:])

    def _put(self, kind: Kind, namespace: str, document: Document, event: str) -> Document:
        document = copy.deepcopy(document)
        metadata = document["metadata"]
        with self._changed:
            before = self._objects.get((kind.plural, namespace, metadata["name"]))
            if kind.namespaced:
                metadata["namespace"] = namespace
            metadata.setdefault("uid", f"uid-{next(self._numbers)}")
            metadata.setdefault("creationTimestamp", NOW)
            same = before is not None and before.get("spec") == document.get("spec")
            generation = before["metadata"].get("generation", 1) if before else 0
            metadata["generation"] = generation if same else generation + 1
            self._control(kind, namespace, document)
            self._objects[(kind.plural, namespace, metadata["name"])] = document
            self._record(event, kind, document)
            return copy.deepcopy(document)

    def _record(self, event: str, kind: Kind, document: Document) -> None:
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)
        self.events.append((self.version, event, kind.plural, copy.deepcopy(document)))
        self._changed.notify_all()

    def _control(self, kind: Kind, namespace: str, document: Document) -> None:
        """What controllers would come to, at once."""
        spec = document.get("spec", {})
        if kind.name == "Service":
            spec.setdefault("clusterIP", "10.0.0.1")
            if spec.get("type") == "LoadBalancer":
                document["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
        elif kind.name == "PersistentVolumeClaim":
            document["status"] = {"phase": "Bound"}
        elif kind.name == "Job":
            done = {"type": "Complete", "status": "True"}
            document["status"] = {"succeeded": 1, "conditions": [done]}
        elif kind.name == "Pod":
            succeeded = self._run_pod(document)
            document["status"] = {"phase": "Succeeded" if succeeded else "Failed"}
        elif kind.name == "ReplicaSet":
            document["status"]["observedGeneration"] = document["metadata"]["generation"]
        elif kind.name == "Deployment":
            self._roll_out(namespace, document)

    def _roll_out(self, namespace: str, document: Document) -> None:
        count = document["spec"].setdefault("replicas", 1)
        all_of_them = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        document["status"] = {
            "observedGeneration": document["metadata"]["generation"],
            **dict.fromkeys(all_of_them, count),
            "conditions": [
                {"type": "Available", "status": "True"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
            ],
        }
        metadata = document["metadata"]
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "controller": True}
        owner |= {"name": metadata["name"], "uid": metadata["uid"]}
        replica_set = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{metadata['name']}-{metadata['generation']}",
                "labels": document["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [owner],
            },
            "spec": {
                "replicas": count,
                "selector": document["spec"]["selector"],
                "template": document["spec"]["template"],
            },
            "status": {"replicas": count, "readyReplicas": count, "availableReplicas": count},
        }
        (kind,) = [kind for kind in KINDS if kind.name == "ReplicaSet"]
        self._put(kind, namespace, replica_set, "ADDED")


def merged(before: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7386): lists are replaced, null takes away."""
    if not isinstance(before, dict) or not isinstance(patch, dict):
        return copy.deepcopy(patch)
    after = dict(before)
    for key, value in patch.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = merged(before.get(key), value)
    return after


MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
}
"""By which elements of a list are known in a strategic merge patch, as far as the chart has them;
`ports` goes by the one of its two keys that an element has."""


def strategically_merged(before: Any, patch: Any, name: str = "") -> Any:
    """A strategic merge patch: as a merge patch, but lists of named things are merged too."""
    if isinstance(patch, list) and patch and isinstance(patch[0], dict):
        key = MERGE_KEYS.get(name)
        if name == "ports":
            key = "containerPort" if "containerPort" in patch[0] else "port"
        if key is not None and isinstance(before, list):
            return _merged_list(before, patch, key)
    if not isinstance(before, dict) or not isinstance(patch, dict):
        return copy.deepcopy(patch)
    after = dict(before)
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            after.pop(key, None)
        else:
            after[key] = strategically_merged(before.get(key), value, key)
    return after


def _merged_list(before: list[Any], patch: list[Any], key: str) -> list[Any]:
    after = {element[key]: element for element in before}
    for change in patch:
        if change.get("$patch") == "delete":
            after.pop(change[key], None)
        else:
            after[change[key]] = strategically_merged(after.get(change[key], {}), change)
    return list(after.values())


def _admit(document: Document, before: Document | None = None) -> None:
    """Strictly, as fieldValidation=Strict has it, and no change of what is immutable. Raises
    Refused."""
    if document["kind"] in ("Secret", "Namespace", "Event"):
        return
    shown = {key: value for key, value in document.items() if key != "status"}
    problems = list(schema_problems([shown], CHECKED_AGAINST))
    problems += [] if before is None else refused_changes(before, document)
    if problems:
        raise Refused(422, "Invalid", "; ".join(problems))
