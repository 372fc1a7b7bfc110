"""What documents name of each other: labels, ports, secrets, volumes, names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.helm.documents import Document, PodTemplate, name_of, of_kind, pods

LABELS = ("name", "instance", "component", "version", "managed-by", "part-of")
OPERATOR_SUFFIXES = ("-head-svc", "-head-xxxxx")
MAX_NAME = 63
MAX_PORT_NAME = 15
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def reference_problems(documents: list[Document], given: frozenset[str]) -> Iterator[str]:
    """`given` holds the strings of the values: secrets and claims of those names are the user's."""
    templates = list(pods(documents))
    yield from _name_problems(documents)
    yield from _selector_problems(documents, templates)
    yield from _service_problems(documents, templates)
    yield from _target_problems(documents)
    for pod in templates:
        yield from _probe_problems(pod)
        yield from _volume_problems(pod, documents, given)
        yield from _env_problems(pod, documents, given)
        yield from _account_problems(pod, documents, given)


def _name_problems(documents: list[Document]) -> Iterator[str]:
    names = [name_of(document) for document in documents]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name}: there are two of them"
    for document in documents:
        name, labels = document["metadata"]["name"], document["metadata"].get("labels", {})
        suffixes = OPERATOR_SUFFIXES if document["kind"] == "RayCluster" else ("",)
        if any(len(name + suffix) > MAX_NAME for suffix in suffixes):
            yield f"{name_of(document)}: the name is too long"
        if not _NAME.fullmatch(name):
            yield f"{name_of(document)}: no name for Kubernetes"
        missing = [it for it in LABELS if f"app.kubernetes.io/{it}" not in labels]
        if missing and "helm.sh/chart" in labels:
            yield f"{name_of(document)}: lacks the labels {missing}"


def within(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """A label selector, as far as the chart uses it."""
    equal = selector.get("matchLabels", {}).items() <= labels.items()
    return equal and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", [])
    )


def _selector_problems(documents: list[Document], templates: list[PodTemplate]) -> Iterator[str]:
    for document in of_kind(documents, "Deployment"):
        labels = document["spec"]["template"]["metadata"]["labels"]
        if not within(document["spec"]["selector"], labels):
            yield f"{name_of(document)}: its selector does not match its pods"
        matched = [
            pod.owner for pod in templates if within(document["spec"]["selector"], pod.labels)
        ]
        if len(matched) > 1:
            yield f"{name_of(document)}: its selector matches pods of others: {matched}"
    for document in documents:
        for selector in _selectors(document):
            if not any(within(selector, pod.labels) for pod in templates):
                yield f"{name_of(document)}: no pod has the labels {selector}"


def _selectors(document: Document) -> Iterator[dict[str, Any]]:
    spec = document.get("spec", {})
    if document["kind"] == "Service":
        yield {"matchLabels": spec["selector"]}
    elif document["kind"] in ("PodDisruptionBudget", "PodMonitor"):
        yield spec["selector"]
    elif document["kind"] == "NetworkPolicy":
        yield spec["podSelector"]
        for rule in (*spec.get("ingress", []), *spec.get("egress", [])):
            for peer in (*rule.get("from", []), *rule.get("to", [])):
                if peer.get("podSelector") and "namespaceSelector" not in peer:
                    marks = peer["podSelector"]["matchLabels"]
                    if any(key.startswith("tandem/") for key in marks) and not _optional(marks):
                        yield peer["podSelector"]


def _optional(marks: dict[str, str]) -> bool:
    """Pods that there are with one launcher, and not with the other."""
    return marks.get("tandem/component") in ("ray-head", "test")


def _service_problems(documents: list[Document], templates: list[PodTemplate]) -> Iterator[str]:
    for service in of_kind(documents, "Service"):
        matched = [
            pod
            for pod in templates
            if within({"matchLabels": service["spec"]["selector"]}, pod.labels)
        ]
        names = [port["name"] for port in service["spec"]["ports"]]
        if len(names) != len(set(names)):
            yield f"{name_of(service)}: a port's name comes twice"
        for port in service["spec"]["ports"]:
            if len(port["name"]) > MAX_PORT_NAME:
                yield f"{name_of(service)}: the port name {port['name']} is too long"
            for pod in matched:
                if port["targetPort"] not in _port_names(pod.containers):
                    yield f"{name_of(service)}: {pod.owner} has no port {port['targetPort']}"


def _port_names(containers: list[dict[str, Any]]) -> dict[str, int]:
    ports = [port for container in containers for port in container.get("ports", [])]
    return {port["name"]: port["containerPort"] for port in ports}


def _target_problems(documents: list[Document]) -> Iterator[str]:
    """Objects that name other objects: scalers, monitors, ingresses, routes."""
    names = {name_of(document) for document in documents}
    services = {it["metadata"]["name"]: it for it in of_kind(documents, "Service")}
    for document in documents:
        for target in _targets(document):
            if target not in names:
                yield f"{name_of(document)}: there is no {target}"
    for document in of_kind(documents, "ServiceMonitor"):
        selector = document["spec"]["selector"]
        found = [it for it in services.values() if within(selector, it["metadata"]["labels"])]
        if len(found) != 1:
            yield f"{name_of(document)}: selects {len(found)} services, must be one"
        for endpoint in document["spec"]["endpoints"]:
            for service in found:
                if endpoint["port"] not in [port["name"] for port in service["spec"]["ports"]]:
                    yield f"{name_of(document)}: {name_of(service)} has no port {endpoint['port']}"
    for kind in ("HTTPRoute", "GRPCRoute"):
        for document in of_kind(documents, kind):
            for rule in document["spec"]["rules"]:
                for backend in rule["backendRefs"]:
                    ports = services.get(backend["name"], {}).get("spec", {}).get("ports", [])
                    if backend["port"] not in [port["port"] for port in ports]:
                        yield f"{name_of(document)}: no port {backend['port']} at {backend['name']}"


def _targets(document: Document) -> Iterator[str]:
    spec = document.get("spec", {})
    if document["kind"] == "HorizontalPodAutoscaler":
        yield f"{spec['scaleTargetRef']['kind']}/{spec['scaleTargetRef']['name']}"
    if document["kind"] == "Ingress":
        for rule in spec["rules"]:
            for path in rule["http"]["paths"]:
                yield f"Service/{path['backend']['service']['name']}"


def _probe_problems(pod: PodTemplate) -> Iterator[str]:
    for container in pod.all_containers:
        ports = _port_names([container])
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind, {})
            for way in ("httpGet", "tcpSocket", "grpc"):
                port = probe.get(way, {}).get("port")
                if port is not None and port not in ports and port not in ports.values():
                    name = container["name"]
                    yield f"{pod.owner}: {kind} asks the port {port}, which {name} lacks"
        for name in ports:
            if len(name) > MAX_PORT_NAME:
                yield f"{pod.owner}: the port name {name} is too long"


def _volume_problems(
    pod: PodTemplate, documents: list[Document], given: frozenset[str]
) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    mounts = [mount for it in pod.all_containers for mount in it.get("volumeMounts", [])]
    for missing in sorted({mount["name"] for mount in mounts} - volumes.keys()):
        yield f"{pod.owner}: mounts {missing}, which is no volume"
    for unused in sorted(volumes.keys() - {mount["name"] for mount in mounts}):
        yield f"{pod.owner}: the volume {unused} is mounted nowhere"
    for container in pod.all_containers:
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        if len(paths) != len(set(paths)):
            yield f"{pod.owner}: {container['name']} mounts twice at one path"
    for volume in volumes.values():
        for target in _volume_targets(volume):
            if not _is_there(target, documents, given):
                yield f"{pod.owner}: the volume {volume['name']} wants {target}, which nobody makes"
    configs = {it["metadata"]["name"]: it["data"] for it in of_kind(documents, "ConfigMap")}
    for mount in mounts:
        config = volumes.get(mount["name"], {}).get("configMap", {}).get("name")
        key = mount.get("subPath")
        if config in configs and key is not None and key not in configs[config]:
            yield f"{pod.owner}: ConfigMap/{config} has no {key}"


def _volume_targets(volume: dict[str, Any]) -> Iterator[str]:
    if "secret" in volume:
        yield f"Secret/{volume['secret']['secretName']}"
    if "configMap" in volume:
        yield f"ConfigMap/{volume['configMap']['name']}"
    if "persistentVolumeClaim" in volume:
        yield f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}"


def _env_problems(
    pod: PodTemplate, documents: list[Document], given: frozenset[str]
) -> Iterator[str]:
    for container in pod.all_containers:
        names = [variable["name"] for variable in container.get("env", [])]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{pod.owner}: {container['name']} has twice the variable {name}"
        words = [*container.get("command", []), *container.get("args", [])]
        for name in re.findall(r"\$\((\w+)\)", " ".join(words)):
            if name not in names:
                yield f"{pod.owner}: {container['name']} uses $({name}), which is not in its env"
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                if key in source and not _is_there(
                    f"{kind}/{source[key]['name']}", documents, given
                ):
                    yield f"{pod.owner}: {variable['name']} wants {source[key]['name']}"


def _account_problems(
    pod: PodTemplate, documents: list[Document], given: frozenset[str]
) -> Iterator[str]:
    account = pod.spec["serviceAccountName"]
    if account != "default" and not _is_there(f"ServiceAccount/{account}", documents, given):
        yield f"{pod.owner}: there is no service account {account}"


def _is_there(target: str, documents: list[Document], given: frozenset[str]) -> bool:
    """Made by the chart, by cert-manager, by the operator (a cluster's token), or by the user."""
    name = target.partition("/")[2]
    made = {name_of(document) for document in documents}
    for document in of_kind(documents, "Certificate"):
        made.add(f"Secret/{document['spec']['secretName']}")
    for document in of_kind(documents, "RayCluster"):
        made.add(f"Secret/{document['metadata']['name']}")
    return target in made or name in given
