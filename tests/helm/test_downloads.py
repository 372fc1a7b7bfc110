"""How models come from a hub: with what environment, which files, how many models."""

from __future__ import annotations

import os
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.hub import NOT_NEEDED
from tests.helm.changes import over
from tests.helm.documents import PodTemplate, name_of, of_kind, pods
from tests.helm.engines import CHART, Helm4
from tests.helm.gates import chart_problems, rendered

STORAGES = ("pod", "claim")
SITE = {
    "proxy": {"https": "http://proxy.example.com:3128", "noProxy": ".svc,10.0.0.0/8"},
    "caBundle": {"configMap": "authorities", "key": "all.pem"},
    "extraEnv": [{"name": "AWS_ENDPOINT_URL", "value": "https://s3.example.com:9443"}],
    "extraEnvFrom": [{"configMapRef": {"name": "site"}}],
}
FILES = ("config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "chat.jinja")
USELESS = ("original/consolidated.00.pth", "consolidated.safetensors", "pytorch_model.bin")


def _values(storage: str, **further: Any) -> dict[str, Any]:
    hf = {"repo": "owner/model", "storage": storage, "endpoint": "https://hub.example.com:8443"}
    return {"launcher": "pods", "model": {"source": "hf", "hf": hf}, **further}


def _downloads(found: list[PodTemplate]) -> list[dict[str, Any]]:
    return [
        container
        for pod in found
        for container in pod.all_containers
        if container["name"].startswith("download-")
    ]


@pytest.mark.parametrize("storage", STORAGES)
def test_downloads_have_the_environment_of_their_site(storage: str, helm4: Helm4) -> None:
    values = _values(storage, download=SITE)
    assert list(chart_problems(helm4, CHART, values)) == []
    containers = _downloads(list(pods(rendered(helm4, CHART, values))))
    assert len(containers) == {"pod": 3, "claim": 1}[storage]
    for container in containers:
        env = {it["name"]: it["value"] for it in container["env"]}
        assert env["HTTPS_PROXY"] == env["https_proxy"] == "http://proxy.example.com:3128"
        assert env["NO_PROXY"] == ".svc,10.0.0.0/8"
        assert env["HF_ENDPOINT"] == "https://hub.example.com:8443"
        assert env["SSL_CERT_FILE"] == "/etc/tandem/download-ca/all.pem"
        assert env["AWS_ENDPOINT_URL"] == "https://s3.example.com:9443"
        assert container["envFrom"] == [{"configMapRef": {"name": "site"}}]
        mounts = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}
        assert mounts["download-ca"] == "/etc/tandem/download-ca"


@pytest.mark.parametrize("storage", STORAGES)
def test_policies_let_downloads_reach_what_they_are_told_of(storage: str, helm4: Helm4) -> None:
    documents = rendered(helm4, CHART, _values(storage, download=SITE))
    egress = {
        name_of(policy).removeprefix("NetworkPolicy/rel-tandem-"): [
            {port["port"] for port in rule["ports"]}
            for rule in policy["spec"]["egress"]
            if "ports" in rule and "to" not in rule
        ]
        for policy in of_kind(documents, "NetworkPolicy")
    }
    told = {8443, 3128, 9443}
    downloading = {"pod": {"router", "worker"}, "claim": {"model"}}[storage]
    assert {name for name, rules in egress.items() if told in rules} == downloading


def test_a_second_copy_of_the_weights_is_not_fetched(helm4: Helm4) -> None:
    (container,) = _downloads(list(pods(rendered(helm4, CHART, _values("claim")))))
    excluded = [
        word.removeprefix("--exclude=")
        for word in container["args"]
        if word.startswith("--exclude=")
    ]
    assert set(NOT_NEEDED) <= set(excluded)  # as `tandem up --model owner/name` leaves out
    assert not any(fnmatch(file, pattern) for file in FILES for pattern in excluded)
    assert all(any(fnmatch(file, pattern) for pattern in excluded) for file in USELESS)


def test_what_a_download_runs_is_what_the_hubs_command_takes(helm4: Helm4, tmp_path: Path) -> None:
    """The script as rendered, with a `hf` that writes down what it was asked."""
    values = over(_values("claim"), {"model": {"hf": {"include": ["*.json", "a b*"]}}})
    (container,) = _downloads(list(pods(rendered(helm4, CHART, values))))
    (tmp_path / "hf").write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done > "$ASKED"\n')
    (tmp_path / "hf").chmod(0o755)
    (tmp_path / "hub" / "owner--model").mkdir(parents=True)
    words = [str(word).replace("/hub/", f"{tmp_path}/hub/") for word in container["args"]]
    asked = tmp_path / "asked"
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ASKED": str(asked)}
    subprocess.run([*container["command"], *words], env=environ, check=True, timeout=60)
    told = asked.read_text().splitlines()
    assert told[:4] == ["download", "owner/model", "--revision", "main"]
    assert "--include=a b*" in told
    assert len(list((tmp_path / "hub" / "owner--model").glob("main.*.complete"))) == 1


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("launcher", ["pods", "ray"])
def test_several_models_may_come_from_a_hub(storage: str, launcher: str, helm4: Helm4) -> None:
    secret = {"tokenSecret": {"name": "its-token"}}
    values = _values(
        storage,
        launcher=launcher,
        models={
            "small": {"hf": {"repo": "owner/small", "revision": "v2", **secret}, "max_queued": 9}
        },
        pools={"small": {"role": "decode", "model": "small"}},
    )
    assert list(chart_problems(helm4, CHART, values)) == []
    documents = rendered(helm4, CHART, values)
    found = {pod.owner.rpartition(" ")[2].rpartition("-")[2]: pod for pod in pods(documents)}
    if storage == "claim":
        assert len(of_kind(documents, "Job")) == 2
        assert len(of_kind(documents, "PersistentVolumeClaim")) == 1
    verb = {"pod": "download", "claim": "await"}[storage]
    names = {
        name: [it["name"] for it in pod.spec.get("initContainers", [])]
        for name, pod in found.items()
    }
    assert names["small"] == [f"{verb}-small"]
    assert names["prefill"] == [f"{verb}-model"]
    assert names["router"] == [f"{verb}-model", f"{verb}-small"]
    assert "/hub/owner--small/v2" in str(found["router"].containers[0]["args"])


def test_one_model_may_be_on_a_claim_and_another_from_a_hub(helm4: Helm4) -> None:
    values = {
        "launcher": "pods",
        "model": {"source": "pvc", "pvc": {"claim": "models"}},
        "models": {"small": {"hf": {"repo": "owner/small"}}},
        "pools": {"small": {"role": "decode", "model": "small"}},
    }
    assert list(chart_problems(helm4, CHART, values)) == []
    found = {pod.owner: pod for pod in pods(rendered(helm4, CHART, values))}
    volumes = {
        owner.rpartition("-")[2]: {it["name"] for it in pod.spec["volumes"]}
        for owner, pod in found.items()
    }
    assert {"model", "hub"} <= volumes["router"]
    assert "hub" not in volumes["prefill"]
    assert "model" not in volumes["small"]


def test_rules_of_ones_own_reach_the_pods_that_they_are_for(helm4: Helm4) -> None:
    rule = {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": 4317}]}
    door = {"from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}
    policies = {
        "extraEgress": {"all": [rule], "worker": [{"ports": [{"port": 111}]}]},
        "extraIngress": {"driver": [door]},
        "cloudIdentity": True,
        "dns": {"ports": [53], "to": [{"namespaceSelector": {}}]},
    }
    values = over(_values("claim"), {"launcher": "ray", "networkPolicy": policies})
    documents = rendered(helm4, CHART, values)
    found = {
        name_of(it).removeprefix("NetworkPolicy/rel-tandem-"): it["spec"]
        for it in of_kind(documents, "NetworkPolicy")
    }
    assert found.keys() == {"router", "worker", "ray-head", "driver", "model"}
    for name, spec in found.items():
        assert rule in spec["egress"], name
        assert ({"ports": [{"port": 111}]} in spec["egress"]) is (name == "worker")
        assert (door in spec["ingress"]) is (name == "driver")
        assert ("169.254.169.254/32" in yaml.safe_dump(spec)) is (name == "model")
        assert spec["egress"][0]["to"] == [{"namespaceSelector": {}}]


def test_workers_on_their_nodes_network_are_let_in_by_address(helm4: Helm4) -> None:
    nodes = [{"ipBlock": {"cidr": "10.0.0.0/16"}}]
    for given, seen in ((nodes, "10.0.0.0/16"), ([], "::/0")):
        values = {
            "launcher": "pods",
            "poolDefaults": {"hostNetwork": True},
            "networkPolicy": {"nodes": given},
        }
        assert list(chart_problems(helm4, CHART, values)) == []
        policies = of_kind(rendered(helm4, CHART, values), "NetworkPolicy")
        assert all(seen in yaml.safe_dump(policy) for policy in policies)
