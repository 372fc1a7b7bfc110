"""What a rollout needs: time to load, claims that stay, devices, addresses of either family."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.helm.documents import Document, PodTemplate, name_of, of_kind, pods
from tests.helm.references import within

IPV4_ALONE = "0.0.0.0"
DNS_PORTS = {53, 5353}
"""Kubernetes', and OpenShift's."""
SCHEME_PORTS = {"http": 80, "https": 443}


def rollout_problems(documents: list[Document]) -> Iterator[str]:
    yield from _deadline_problems(documents)
    yield from _claim_problems(documents)
    yield from _egress_problems(documents)
    for pod in pods(documents):
        yield from _family_problems(pod)
        yield from _device_claim_problems(pod)


def _deadline_problems(documents: list[Document]) -> Iterator[str]:
    """A router is ready once workers are, so it may take as long as they may."""
    templates = list(pods(documents))
    loading = max((_budget(pod, "worker") for pod in templates), default=0)
    for deployment, pod in (
        (it, pod) for it in of_kind(documents, "Deployment") for pod in pods([it])
    ):
        needed = {"worker": _budget(pod, "worker"), "router": _budget(pod, "router") + loading}
        deadline = deployment["spec"].get("progressDeadlineSeconds", 600)
        for container in pod.containers:
            if deadline < needed.get(container["name"], 0):
                yield (
                    f"{name_of(deployment)}: a rollout fails after {deadline} s, while starting "
                    f"may take {needed[container['name']]} s"
                )


def _budget(pod: PodTemplate, name: str) -> int:
    probes = [it.get("startupProbe", {}) for it in pod.containers if it["name"] == name]
    return sum(probe.get("periodSeconds", 10) * probe["failureThreshold"] for probe in probes)


def _claim_problems(documents: list[Document]) -> Iterator[str]:
    for claim in of_kind(documents, "PersistentVolumeClaim"):
        policy = claim["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
        if policy != "keep":
            yield f"{name_of(claim)}: goes with the release, and what was downloaded with it"


def _egress_problems(documents: list[Document]) -> Iterator[str]:
    """Whoever downloads may reach what the containers are told of."""
    policies = of_kind(documents, "NetworkPolicy")
    for pod in pods(documents):
        for policy in (it for it in policies if within(it["spec"]["podSelector"], pod.labels)):
            open_ports = set(_ports(policy))
            if not open_ports >= DNS_PORTS:
                yield f"{name_of(policy)}: DNS answers at {sorted(DNS_PORTS)}"
            for port in sorted(_wanted_ports(pod) - open_ports):
                yield f"{name_of(policy)}: keeps {pod.owner} from its download, at port {port}"


def _ports(policy: Document) -> Iterator[int]:
    for rule in policy["spec"]["egress"]:
        for port in rule.get("ports", []):
            yield port["port"]


def _wanted_ports(pod: PodTemplate) -> set[int]:
    found = set()
    for container in pod.all_containers:
        if not container["name"].startswith("download-"):
            continue
        given = {it["name"]: it.get("value", "") for it in container.get("env", [])}
        given.setdefault("HF_ENDPOINT", "https://the.default")
        for value in given.values():
            if url := re.match(r"(https?)://[^:/]+(?::(\d+))?", value):
                found.add(int(url[2] or SCHEME_PORTS[url[1]]))
    return found


def _family_problems(pod: PodTemplate) -> Iterator[str]:
    for container in pod.all_containers:
        words = [*container.get("command", []), *container.get("args", [])]
        if any(IPV4_ALONE in str(word) for word in words):
            yield f"{pod.owner}: {container['name']} listens on IPv4 alone"


def _device_claim_problems(pod: PodTemplate) -> Iterator[str]:
    claimed = {it["name"] for it in pod.spec.get("resourceClaims", [])}
    used = {
        it["name"]
        for container in pod.all_containers
        for it in container.get("resources", {}).get("claims", [])
    }
    if claimed != used:
        yield f"{pod.owner}: claims {sorted(claimed)}, and its containers use {sorted(used)}"
