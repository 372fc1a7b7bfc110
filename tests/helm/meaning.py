"""What the chart promises: hardening, draining, scaling, and settings that processes accept."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from cluster.bundled import BUNDLED_MODEL
from cluster.config import load_config
from cluster.errors import BadConfig
from router.config import RouterConfig
from tests.helm.documents import Document, PodTemplate, name_of, of_kind, pods
from tests.helm.engines import NAMESPACE
from tests.helm.references import within
from tests.helm.rollouts import rollout_problems
from worker.config import WorkerConfig

PROCESS_DRAIN_S = 30
"""How long `python -m router` and the workers drain after SIGTERM."""
SOME = 2
"""Pods of a Deployment that another autoscaler than the chart's owns."""
LONG_RUNNING = ("Deployment",)


def meaning_problems(documents: list[Document], folder: Path) -> Iterator[str]:
    """`folder` takes configuration files while they are read."""
    templates = list(pods(documents))
    for pod in templates:
        yield from _hardening_problems(pod)
        yield from _resource_problems(pod)
        yield from _drain_problems(pod)
        yield from _probe_problems(pod)
        yield from _argument_problems(pod)
    yield from _scaling_problems(documents)
    yield from _address_problems(documents, templates)
    yield from _policy_problems(documents, templates)
    yield from _ray_problems(documents, folder)
    yield from _hook_problems(documents)
    yield from rollout_problems(documents)


def _hardening_problems(pod: PodTemplate) -> Iterator[str]:
    context = pod.spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True:
        yield f"{pod.owner}: may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{pod.owner}: has no seccomp profile"
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield f"{pod.owner}: is given a token of the API server"
    for container in pod.all_containers:
        own = container.get("securityContext", {})
        name = f"{pod.owner}: {container['name']}"
        capabilities = own.get("capabilities", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"{name} may gain privileges"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name} may write to its image"
        if capabilities.get("drop") != ["ALL"]:
            yield f"{name} keeps capabilities"
        if capabilities.get("add") and not _has_devices(container):
            yield f"{name} has the capabilities {capabilities['add']}, and no fabric's device"
        if not re.search(r"@sha256:[0-9a-f]{64}$|:[\w.-]*\d[\w.-]*$", container["image"]):
            yield f"{name}: the image {container['image']} is not pinned"
        if "/tmp" not in [mount["mountPath"] for mount in container.get("volumeMounts", [])]:
            yield f"{name} cannot write to /tmp"


def _has_devices(container: dict[str, Any]) -> bool:
    limits = container["resources"]["limits"]
    return any("/" in name and not name.endswith("/gpu") for name in limits)


def _resource_problems(pod: PodTemplate) -> Iterator[str]:
    for container in pod.all_containers:
        resources = container.get("resources", {})
        limits, requests = resources.get("limits", {}), resources.get("requests", {})
        name = f"{pod.owner}: {container['name']}"
        if "memory" not in limits or not {"cpu", "memory"} <= requests.keys():
            yield f"{name} lacks requests or a limit of memory"
        for device in {it for it in (*limits, *requests) if "/" in it or it.startswith("huge")}:
            if limits.get(device) != requests.get(device):
                yield f"{name}: requests and limits of {device} differ"


def _drain_problems(pod: PodTemplate) -> Iterator[str]:
    grace = pod.spec.get("terminationGracePeriodSeconds", 30)
    for container in pod.containers:
        command = (
            container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
        )
        if "router" in container.get("command", []) and command[:1] != ["sleep"]:
            yield f"{pod.owner}: load balancers have no time to notice that it goes"
        if pod.kind.startswith("Ray") and "wait-drained" not in command:
            yield f"{pod.owner}: Ray is stopped before workers have drained"
        if command[:1] == ["sleep"]:
            needed = int(command[1]) + PROCESS_DRAIN_S
        elif "wait-drained" in command:
            needed = int(command[command.index("wait-drained") + 1])
        else:
            continue
        if grace <= needed:
            yield f"{pod.owner}: is killed after {grace} s, while draining takes {needed} s"


def _probe_problems(pod: PodTemplate) -> Iterator[str]:
    """Of Ray's own containers, the operator makes the probes."""
    if pod.kind not in LONG_RUNNING:
        return
    container = pod.containers[0]
    for kind in ("readinessProbe", "livenessProbe"):
        if kind not in container:
            yield f"{pod.owner}: {container['name']} has no {kind}"
    router = container["name"] == "router"
    if container["name"] == "worker" and not _asks(container.get("readinessProbe", {}), "/health"):
        yield f"{pod.owner}: is ready before a router has taken it"
    if router and not _asks(container.get("readinessProbe", {}), "/health"):
        yield f"{pod.owner}: is ready without workers, or while it drains"
    if router and not _asks(container.get("livenessProbe", {}), "/ping"):
        yield f"{pod.owner}: is killed when its workers are away"


def _asks(probe: dict[str, Any], path: str) -> bool:
    """Over HTTP, or by a command whose last word is the address."""
    command = probe.get("exec", {}).get("command", [""])
    return probe.get("httpGet", {}).get("path") == path or str(command[-1]).endswith(path)


def argument(container: dict[str, Any], flag: str) -> str | None:
    """The value of --flag=value."""
    for word in container.get("args", []):
        if isinstance(word, str) and word.startswith(f"--{flag}="):
            return word.partition("=")[2]
    return None


def _argument_problems(pod: PodTemplate) -> Iterator[str]:
    container = pod.containers[0]
    kinds: dict[str, Any] = {
        "router": RouterConfig,
        "prefill_worker": WorkerConfig,
        "decode_worker": WorkerConfig,
    }
    for room in kinds.keys() & set(container.get("command", [])):
        needed = {"models": {}} if room == "router" else {"model": "/"}
        try:
            settings = json.loads(argument(container, "settings") or "{}")
            msgspec.convert({**needed, **settings}, kinds[room])
        except (ValueError, msgspec.ValidationError) as error:
            yield f"{pod.owner}: --settings: {error}"
            continue
        yield from _port_problems(pod, container, settings)
        yield from _file_problems(pod, container, settings)


def _port_problems(
    pod: PodTemplate, container: dict[str, Any], settings: dict[str, Any]
) -> Iterator[str]:
    declared = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    flags = {"http": "http-port", "grpc": "grpc-port", "fleet": "fleet-port", "worker": "port"}
    keys = {"admin": "admin_port", "status": "metrics_port"}
    for name, port in declared.items():
        told = settings.get(keys[name]) if name in keys else argument(container, flags[name])
        if str(told) != str(port):
            yield f"{pod.owner}: declares the port {name} as {port}, and is told {told}"


def _file_problems(
    pod: PodTemplate, container: dict[str, Any], settings: dict[str, Any]
) -> Iterator[str]:
    """Files of certificates and keys are mounted where settings look for them."""
    mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
    for path in re.findall(r'"(/etc/[^"]+)"', json.dumps(settings)):
        if not any(path.startswith(f"{mount}/") for mount in mounts):
            yield f"{pod.owner}: {path} is mounted nowhere"


def _scaling_problems(documents: list[Document]) -> Iterator[str]:
    scaled = {
        it["spec"]["scaleTargetRef"]["name"] for it in of_kind(documents, "HorizontalPodAutoscaler")
    }
    for scaler in of_kind(documents, "HorizontalPodAutoscaler"):
        if scaler["spec"]["minReplicas"] > scaler["spec"]["maxReplicas"]:
            yield f"{name_of(scaler)}: the fewest are more than the most"
    for deployment in of_kind(documents, "Deployment"):
        if deployment["metadata"]["name"] in scaled and "replicas" in deployment["spec"]:
            yield f"{name_of(deployment)}: an upgrade would undo what its autoscaler chose"
    for budget in of_kind(documents, "PodDisruptionBudget"):
        for count in _counts(documents, budget["spec"]["selector"]):
            if count < 2:
                yield f"{name_of(budget)}: for a single pod, it does nothing or blocks its node"
    for cluster in of_kind(documents, "RayCluster"):
        for group in cluster["spec"]["workerGroupSpecs"]:
            if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
                yield f"{name_of(cluster)}: {group['groupName']} has no room for its replicas"


def _counts(documents: list[Document], selector: dict[str, Any]) -> Iterator[int]:
    """How many pods those that match have."""
    fewest = {
        it["spec"]["scaleTargetRef"]["name"]: it["spec"]["minReplicas"]
        for it in of_kind(documents, "HorizontalPodAutoscaler")
    }
    for deployment in of_kind(documents, "Deployment"):
        if within(selector, deployment["spec"]["template"]["metadata"]["labels"]):
            name = deployment["metadata"]["name"]
            chosen_by_others = fewest.get(name, SOME)
            yield deployment["spec"].get("replicas", chosen_by_others)
    for cluster in of_kind(documents, "RayCluster"):
        for group in cluster["spec"]["workerGroupSpecs"]:
            if within(selector, group["template"]["metadata"]["labels"]):
                yield group["replicas"]


def _address_problems(documents: list[Document], templates: list[PodTemplate]) -> Iterator[str]:
    """Workers are told a service that has all routers, ready or not, at the port they listen on."""
    services = {it["metadata"]["name"]: it["spec"] for it in of_kind(documents, "Service")}
    for owner, address in _fleet_addresses(documents, templates):
        host, _, port = address.rpartition(":")
        service = services.get(host.split(".")[0])
        if service is None or f".{NAMESPACE}.svc" not in host:
            yield f"{owner}: there is no service {host}"
        elif service["clusterIP"] != "None" or not service.get("publishNotReadyAddresses"):
            yield f"{owner}: {host} does not tell all routers, before they are ready"
        elif int(port) not in [it["port"] for it in service["ports"]]:
            yield f"{owner}: {host} has no port {port}"
    for service in services.values():
        for port in service["ports"]:
            inside = service.get("type", "ClusterIP") == "ClusterIP"
            if port["name"] == "grpc" and inside and service.get("clusterIP") != "None":
                yield "the gRPC service balances connections, not calls: it must be headless"
            if "appProtocol" not in port:
                yield f"the port {port['name']} has no appProtocol"
    for pod in templates:
        for variable in pod.containers[0].get("env", []):
            if variable["name"] == "TANDEM_RAY_JOBS":
                heads = [
                    f"{it['metadata']['name']}-head-svc" for it in of_kind(documents, "RayCluster")
                ]
                if not any(f"//{head}.{NAMESPACE}.svc" in variable["value"] for head in heads):
                    yield f"{pod.owner}: {variable['value']} is not at Ray's head, {heads}"


def _fleet_addresses(
    documents: list[Document], templates: list[PodTemplate]
) -> Iterator[tuple[str, str]]:
    for pod in templates:
        if address := argument(pod.containers[0], "router"):
            yield pod.owner, address
    for config in of_kind(documents, "ConfigMap"):
        if "cluster.yaml" in config["data"]:
            for address in yaml.safe_load(config["data"]["cluster.yaml"])["worker"]["routers"]:
                yield name_of(config), address


def _policy_problems(documents: list[Document], templates: list[PodTemplate]) -> Iterator[str]:
    policies = of_kind(documents, "NetworkPolicy")
    if not policies:
        return
    for pod in templates:
        guarding = [it for it in policies if within(it["spec"]["podSelector"], pod.labels)]
        if pod.kind != "Pod" and not guarding:
            yield f"{pod.owner}: no network policy guards it"
        for policy in guarding:
            if sorted(policy["spec"]["policyTypes"]) != ["Egress", "Ingress"]:
                yield f"{name_of(policy)}: leaves one direction open"
            if pod.kind == "RayHead" and any("from" not in it for it in policy["spec"]["ingress"]):
                yield f"{name_of(policy)}: whoever reaches Ray's head runs code on all nodes"
            if not any(
                port.get("port") == 53
                for rule in policy["spec"]["egress"]
                for port in rule.get("ports", [])
            ):
                yield f"{name_of(policy)}: keeps {pod.owner} from asking DNS"


def _ray_problems(documents: list[Document], folder: Path) -> Iterator[str]:
    for cluster in of_kind(documents, "RayCluster"):
        if cluster["spec"]["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
            yield f"{name_of(cluster)}: workers may land on the head"
        for group in cluster["spec"]["workerGroupSpecs"]:
            yield from _group_problems(documents, group, folder)


def _group_problems(
    documents: list[Document], group: dict[str, Any], folder: Path
) -> Iterator[str]:
    """What a pool's workers take, nodes of its group have, and those of pools that run on them."""
    (config,) = [it for it in of_kind(documents, "ConfigMap") if "cluster.yaml" in it["data"]]
    tree = yaml.safe_load(config["data"]["cluster.yaml"])
    tree["models"] = {
        model: {**told, "path": str(BUNDLED_MODEL)} for model, told in tree["models"].items()
    }
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(tree))
    name = group["groupName"]
    try:
        loaded = load_config(str(file), {})
        pool = loaded.pool(name)
    except BadConfig as error:
        yield f"{name_of(config)}: cluster.yaml: {error}"
        return
    if pool.role.value != group["template"]["metadata"]["labels"]["tandem/role"]:
        yield f"{name}: its pods are labelled with another role than {pool.role.value}"
    params = group["rayStartParams"]
    resources = json.loads(params["resources"].strip("'"))
    here = {it.name: int(resources.get(f"tandem-{it.name}", 0)) for it in loaded.pools}
    if group["replicas"] != -(-pool.replicas // max(1, here[name])):
        yield f"{name}: {pool.replicas} workers for {group['replicas']} nodes"
    wanted: Counter[str] = Counter()
    for it in (it for it in loaded.pools if here[it.name]):
        wanted.update({key: here[it.name] * amount for key, amount in it.resources.items()})
    if not wanted.items() <= resources.items() or f"tandem-{name}" not in pool.resources:
        yield f"{name}: workers want {dict(wanted)}, nodes have {resources}"
    num_cpus = sum(here[it.name] * it.num_cpus for it in loaded.pools)
    num_gpus = sum(here[it.name] * it.num_gpus for it in loaded.pools)
    if (num_cpus, num_gpus) != (float(params["num-cpus"]), float(params["num-gpus"])):
        yield f"{name}: workers want other CPUs or GPUs than nodes have"
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    gpus = sum(int(count) for device, count in limits.items() if device.endswith("/gpu"))
    if gpus != num_gpus and not group["template"]["spec"].get("resourceClaims"):
        yield f"{name}: workers want {num_gpus:g} GPUs, and their pod is given {gpus}"


def _hook_problems(documents: list[Document]) -> Iterator[str]:
    for document in of_kind(documents, "Pod"):
        if document["metadata"].get("annotations", {}).get("helm.sh/hook") != "test":
            yield f"{name_of(document)}: would be installed, not run as a test"
