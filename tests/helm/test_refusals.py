"""Values that cannot work are refused, by both Helms, with a message that names the key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.engines import CHART, Helm3, Helm4, HelmFailed

REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown key": ({"replicaCount": 2}, ("replicaCount",)),
    "an unknown key in a pool": ({"pools": {"prefill": {"replica": 2}}}, ("prefill", "replica")),
    "a pool without a role": ({"pools": {"fast": {"replicas": 2}}}, ("fast", "role")),
    "a role that there is not": ({"pools": {"prefill": {"role": "both"}}}, ("prefill", "role")),
    "a number as text": ({"router": {"replicas": "two"}}, ("router", "replicas")),
    "no router": ({"router": {"replicas": 0}}, ("router", "replicas")),
    "a launcher that there is not": ({"launcher": "slurm"}, ("launcher",)),
    "a model source that there is not": ({"model": {"source": "s3"}}, ("model", "source")),
    "a digest that is none": ({"images": {"router": {"digest": "abc"}}}, ("digest",)),
    "half a GPU": ({"poolDefaults": {"gpus": {"count": 0.5}}}, ("gpus", "count")),
    "a privileged port": ({"router": {"ports": {"http": 80}}}, ("ports", "http")),
    "a token in plain text": ({"model": {"hf": {"token": "hf_x"}}}, ("hf", "token")),
    "a pool's name with a capital": ({"pools": {"Big": {"role": "decode"}}}, ("Big",)),
    "a ratio over one": (
        {"monitoring": {"prometheusRule": {"failureRatio": 5}}},
        ("failureRatio",),
    ),
    "less grace than draining takes": (
        {"drain": {"terminationGracePeriodSeconds": 30}},
        ("drain.terminationGracePeriodSeconds is 30", "Set it to 45 or more"),
    ),
    "a claim without a name": ({"model": {"source": "pvc"}}, ("model.pvc.claim is empty",)),
    "a repository without a name": ({"model": {"source": "hf"}}, ("model.hf.repo is empty",)),
    "a path on nodes, from somewhere else": (
        {"model": {"hostPath": True}},
        ("model.hostPath is for model.source path, which is bundled",),
    ),
    "nobody to serve": (
        {"pools": {"prefill": {"replicas": 0}, "decode": {"replicas": 0}}},
        ("no pool has replicas", "set pools.decode.replicas"),
    ),
    "devices without rdma": (
        {"pools": {"decode": {"rdma": {"resources": {"rdma/ib": 1}}}}},
        ("pools.decode.rdma has resources, and is not enabled",),
    ),
    "a pool of a model that is not there": (
        {"models": {"small": {"path": "/small"}}, "pools": {"decode": {"model": "smal"}}},
        ("pools.decode.model is smal", "small, tiny-python"),
    ),
    "a model without a pool": (
        {"models": {"small": {"path": "/small"}}},
        ("no pool with replicas serves the model small",),
    ),
    "a model of a name that is taken": (
        {"models": {"tiny-python": {"path": "/other"}}},
        ("models has tiny-python, which is the name of model",),
    ),
    "a host group without Ray": (
        {"launcher": "pods", "poolDefaults": {"numOfHosts": 2}},
        ("numOfHosts is 2", "set launcher=ray"),
    ),
    "fewest over most": (
        {"router": {"autoscaling": {"enabled": True, "minReplicas": 9}}},
        ("router.autoscaling.minReplicas is 9, more than maxReplicas, which is 8",),
    ),
    "TLS without a certificate": (
        {"tls": {"internal": {"enabled": True}}},
        ("tls.internal is enabled, and has no certificate", "tls.internal.secretName"),
    ),
    "cert-manager without an issuer": (
        {"tls": {"door": {"enabled": True}, "certManager": {"enabled": True}}},
        ("tls.certManager.issuerRef has no name",),
    ),
    "keys, and a test without one": (
        {"apiKeys": {"secretName": "keys"}},
        ("set test.keySecret.name", "test.enabled=false"),
    ),
    "keys, and a scrape without one": (
        {
            "apiKeys": {"secretName": "keys"},
            "test": {"enabled": False},
            "monitoring": {"serviceMonitor": {"enabled": True}},
        },
        ("set monitoring.serviceMonitor.keySecret.name",),
    ),
    "a misspelt setting of workers": (
        {"worker": {"settings": {"cache_fracton": 0.5}}},
        ("worker", "settings", "cache_fracton"),
    ),
    "a setting of another type": (
        {"pools": {"decode": {"settings": {"chunk_tokens": "many"}}}},
        ("decode", "settings", "chunk_tokens"),
    ),
    "a misspelt setting of routers": (
        {"router": {"settings": {"splt": "always"}}},
        ("router", "settings", "splt"),
    ),
    "a choice that routers do not know": (
        {"router": {"settings": {"split": "sometimes"}}},
        ("router", "settings", "split"),
    ),
    "a misspelt setting of a model": (
        {"models": {"small": {"path": "/small", "tool_praser": "hermes"}}},
        ("small", "tool_praser"),
    ),
    "a pool's setting that is the chart's": (
        {"pools": {"decode": {"settings": {"metrics_port": 1234}}}},
        ("the settings of pools.decode", "have metrics_port"),
    ),
    "a model from two places": (
        {"models": {"small": {"path": "/small", "hf": {"repo": "o/small"}}}},
        ("models.small: write either path", "or hf"),
    ),
    "GPUs that workers do not use": (
        {"poolDefaults": {"gpus": {"count": 4}}},
        ("gpus.count is 4, and its workers use 1", "tensor_parallel_size"),
    ),
    "ranks without GPUs of their own": (
        {"poolDefaults": {"gpus": {"count": 1}, "settings": {"tensor_parallel_size": 2}}},
        ("gpus.count is 1, and its workers use 2",),
    ),
    "several workers in a plain pod": (
        {"launcher": "pods", "poolDefaults": {"workersPerNode": 2}},
        ("shares a pod with other workers", "set launcher=ray"),
    ),
    "nodes of a pool that is not there": (
        {"pools": {"decode": {"onNodesOf": "perfill"}}},
        ("pools.decode.onNodesOf is perfill, which is no other pool",),
    ),
    "nodes of a pool that has none": (
        {"pools": {"decode": {"onNodesOf": "prefill"}, "prefill": {"onNodesOf": "decode"}}},
        ("pools.decode.onNodesOf is prefill, which is no other pool with Ray nodes of its own",),
    ),
    "nodes with another model": (
        {
            "models": {"small": {"path": "/small"}},
            "pools": {
                "decode": {"model": "small", "onNodesOf": "prefill"},
                "more": {"role": "decode"},
            },
        },
        ("pools.decode.onNodesOf is prefill, whose Ray nodes have another model",),
    ),
    "more workers than their nodes take": (
        {"pools": {"decode": {"onNodesOf": "prefill", "replicas": 3, "workersPerNode": 2}}},
        ("pools.decode has 3 workers", "on the 1 Ray nodes of prefill is room for 2"),
    ),
    "an autoscaler of Ray's workers": (
        {"pools": {"decode": {"replicas": None}}},
        ("pools.decode: an autoscaler scales Deployments", "set launcher=pods"),
    ),
    "an autoscaler without metrics": (
        {"launcher": "pods", "pools": {"decode": {"autoscaling": {"enabled": True}}}},
        ("pools.decode.autoscaling has no metrics", "external=true"),
    ),
    "fewest workers over most": (
        {
            "launcher": "pods",
            "poolDefaults": {"autoscaling": {"enabled": True, "external": True, "minReplicas": 9}},
        },
        ("autoscaling.minReplicas is 9, more than maxReplicas, which is 4",),
    ),
    "two pools of one port on one node": (
        {
            "launcher": "pods",
            "poolDefaults": {"hostNetwork": True, "colocateKey": "kubernetes.io/hostname"},
        },
        ("share a node's network (hostNetwork) and the port 9000", "prefill.port"),
    ),
    "two workers of one port on one node": (
        {
            "poolDefaults": {"hostNetwork": True, "colocateKey": "kubernetes.io/hostname"},
            "pools": {"decode": {"replicas": 2}},
        },
        ("pools.decode has 2 workers of one port on the network of one node",),
    ),
    "one port for work and metrics": (
        {"worker": {"metricsPort": 9000}},
        ("port and metricsPort are both 9000",),
    ),
    "two bundles of authorities": (
        {"download": {"caBundle": {"configMap": "a", "secret": "b"}}},
        ("download.caBundle names a configMap and a secret",),
    ),
    "a label that the chart selects by": (
        {"poolDefaults": {"podLabels": {"tandem/component": "router"}}},
        ("podLabels", "component"),
    ),
    "containers among further fields of a pod": (
        {"router": {"extraPodSpec": {"containers": []}}},
        ("router", "extraPodSpec", "containers"),
    ),
    "one port for two": ({"router": {"ports": {"grpc": 8000}}}, ("router.ports has a port twice",)),
    "a setting that is the chart's": (
        {"router": {"settings": {"http_port": 1}}},
        ("router.settings.http_port: the chart sets this",),
    ),
    "a worker's setting that is the chart's": (
        {"worker": {"settings": {"routers": ["x"]}}},
        ("worker.settings.routers: the chart sets this",),
    ),
    "a gateway without a parent": (
        {"gateway": {"enabled": True}},
        ("gateway.parentRefs is empty",),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_with_a_readable_message(what: str, helm3: Helm3, helm4: Helm4) -> None:
    values, words = REFUSED[what]
    for render in (helm3.render, helm4.render):
        with pytest.raises(HelmFailed) as refusal:
            render(CHART, values)
        message = str(refusal.value).replace("\\n", " ").replace("\n", " ")
        missing = [word for word in words if word not in message]
        assert not missing, f"{missing} not in: {message}"
