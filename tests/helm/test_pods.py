"""Every pod of the chart can be placed, ranked, marked and changed, whoever makes it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.helm.changes import over
from tests.helm.documents import PodTemplate, of_kind, pods
from tests.helm.engines import CHART, Helm4
from tests.helm.gates import chart_problems, rendered
from tests.helm.schemas import schema_problems

PLACED: dict[str, Any] = {
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
    "schedulerName": "volcano",
}
EVERYWHERE = {**PLACED, "podLabels": {"team": "one"}, "podAnnotations": {"note": "one"}}
EXTRA = {
    "extraPodSpec": {"shareProcessNamespace": True, "dnsConfig": {"nameservers": ["10.0.0.1"]}}
}
CLAIM = {"source": "hf", "hf": {"repo": "owner/model", "storage": "claim"}}
WHERE = ("poolDefaults", "router", "download", "test")


def _everywhere(each: dict[str, Any], launcher: str) -> dict[str, Any]:
    values: dict[str, Any] = {"launcher": launcher, "model": CLAIM}
    ray = {"ray": {"head": each, "driver": each}}
    return over(over(values, dict.fromkeys(WHERE, each)), ray)


@pytest.mark.parametrize("launcher", ["pods", "ray"])
def test_every_pod_has_the_same_options(launcher: str, helm4: Helm4) -> None:
    values = _everywhere({**EVERYWHERE, **EXTRA}, launcher)
    found = list(pods(rendered(helm4, CHART, values)))
    assert {pod.kind for pod in found} >= {"Deployment", "Job", "Pod"}
    for pod in found:
        assert {key: pod.spec.get(key) for key in PLACED} == PLACED, pod.owner
        assert pod.labels["team"] == "one", pod.owner
        assert pod.annotations["note"] == "one", pod.owner
        assert pod.spec["shareProcessNamespace"] is True, pod.owner
        assert pod.spec["dnsConfig"] == {"nameservers": ["10.0.0.1"]}, pod.owner
    assert list(chart_problems(helm4, CHART, values)) == []


@pytest.mark.parametrize("launcher", ["pods", "ray"])
def test_workers_that_ask_for_gpus_compute_on_them_or_do_not_start(
    launcher: str, helm4: Helm4
) -> None:
    """ "auto" would settle for the CPU where torch finds no driver; a device that is set stays."""
    values = {
        "launcher": launcher,
        "poolDefaults": {"gpus": {"count": 1}},
        "pools": {"prefill": {}, "decode": {"settings": {"device": "cuda:0"}}},
    }
    documents = rendered(helm4, CHART, values)
    text = json.dumps(documents).replace("\\", "")
    assert sorted(re.findall(r'"device":"(.*?)"', text)) == ["cuda", "cuda:0"]
    without = json.dumps(rendered(helm4, CHART, {"launcher": launcher}))
    assert "device" not in without.replace("devices", "")


def test_workers_of_both_pools_share_ray_nodes_that_have_the_gpus_of_all(helm4: Helm4) -> None:
    """In one pod they share a PID namespace and see each other's GPUs: they can use NVLink."""
    values = {
        "poolDefaults": {"gpus": {"count": 2}, "settings": {"tensor_parallel_size": 2}},
        "pools": {
            "prefill": {"replicas": 3, "workersPerNode": 2, "cpus": 4},
            "decode": {"replicas": 2, "workersPerNode": 1, "cpus": 6, "onNodesOf": "prefill"},
        },
    }
    documents = rendered(helm4, CHART, values)
    (cluster,) = of_kind(documents, "RayCluster")
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert (group["groupName"], group["replicas"]) == ("prefill", 2)
    params = group["rayStartParams"]
    assert (params["num-cpus"], params["num-gpus"]) == ("14", "6")
    assert json.loads(params["resources"].strip("'")) == {"tandem-prefill": 2, "tandem-decode": 1}
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 6
    assert "metrics_port" not in json.dumps(documents)  # one port would be bound by several
    assert list(chart_problems(helm4, CHART, values)) == []


def test_further_fields_of_a_pod_are_merged_with_the_charts(helm4: Helm4) -> None:
    root = {"securityContext": {"runAsUser": 0, "runAsNonRoot": False}}
    pod = _worker(helm4, {"extraPodSpec": root})
    assert pod.spec["securityContext"]["runAsUser"] == 0
    assert pod.spec["securityContext"]["fsGroup"] == 10001
    assert pod.containers[0]["name"] == "worker"


def test_further_fields_of_a_container_are_merged_with_the_charts(helm4: Helm4) -> None:
    extra = {"livenessProbe": {"periodSeconds": 99}, "workingDir": "/tmp"}
    (container,) = _worker(helm4, {"extraContainerSpec": extra}).containers
    assert container["workingDir"] == "/tmp"
    assert container["livenessProbe"]["periodSeconds"] == 99
    assert container["livenessProbe"]["httpGet"] == {"path": "/ping", "port": "status"}


@pytest.mark.parametrize("launcher", ["pods", "ray"])
def test_devices_may_be_claimed(launcher: str, helm4: Helm4) -> None:
    claims = [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]
    pool = {"resourceClaims": claims, "gpus": {"count": 1, "resourceName": ""}}
    values = {"launcher": launcher, "poolDefaults": pool}
    documents = rendered(helm4, CHART, values)
    assert list(schema_problems(documents, ("1.34", "1.37"))) == []
    workers = [pod for pod in pods(documents) if "tandem/pool" in pod.labels]
    assert len(workers) == 2
    for pod in workers:
        assert pod.spec["resourceClaims"] == claims
        assert pod.containers[0]["resources"]["claims"] == [{"name": "gpu"}]
        assert not any("gpu" in name for name in pod.containers[0]["resources"]["limits"])
    assert list(chart_problems(helm4, CHART, values)) == []


def test_namespaces_of_the_node_are_used_where_asked(helm4: Helm4) -> None:
    asked = _worker(helm4, {"hostIPC": True, "hostPID": True})
    assert (asked.spec["hostIPC"], asked.spec["hostPID"]) == (True, True)
    assert {"hostIPC", "hostPID", "hostNetwork"}.isdisjoint(_worker(helm4, {}).spec)


def test_pools_on_one_network_have_ports_of_their_own(helm4: Helm4) -> None:
    values = {
        "launcher": "pods",
        "poolDefaults": {"hostNetwork": True, "colocateKey": "kubernetes.io/hostname"},
        "pools": {"decode": {"port": 9100, "metricsPort": 9101}},
        "monitoring": {"podMonitor": {"enabled": True}},
    }
    assert list(chart_problems(helm4, CHART, values)) == []
    documents = rendered(helm4, CHART, values)
    ports = {
        pod.labels["tandem/pool"]: [port["containerPort"] for port in pod.containers[0]["ports"]]
        for pod in pods(documents)
        if "tandem/pool" in pod.labels
    }
    assert ports == {"prefill": [9000, 9091], "decode": [9100, 9101]}


def _worker(helm4: Helm4, pool: dict[str, Any]) -> PodTemplate:
    values = {"launcher": "pods", "pools": {"decode": pool}}
    (found,) = [
        pod
        for pod in pods(rendered(helm4, CHART, values))
        if pod.labels.get("tandem/pool") == "decode"
    ]
    return found
