"""Defects put into the chart on purpose: each is found by a gate."""

# ruff: noqa: E501  # lines of templates are quoted as they are

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helm.documents import ci_values
from tests.helm.engines import CHART, Helm4
from tests.helm.gates import chart_problems
from tests.helm.schemas import CRDS_VARIABLE, crds_folder

VALUES = ci_values()


class Defect(NamedTuple):
    file: str
    right: str
    wrong: str
    gate: str
    """Which finds it: part of what it says."""
    values: str | dict[str, Any] = "minimal"
    """A file of ci/, or the values."""


CLAIMS = [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]
DEFECTS = {
    "a selector that matches no pod": Defect(
        "router-deployment.yaml",
        'matchLabels: {{- include "tandem.selector" (dict "root" . "component" "router") | nindent 6 }}',
        "matchLabels: {app.kubernetes.io/name: other}",
        "references: Deployment/rel-tandem-router: its selector does not match",
    ),
    "a service of nobody": Defect(
        "router-services.yaml",
        '(dict "root" . "component" "router") -}}\n{{- $families',
        '(dict "root" . "component" "routers") -}}\n{{- $families',
        "references: Service/rel-tandem: no pod has the labels",
    ),
    "a long port name": Defect(
        "router-services.yaml",
        "name: grpc, port: {{ .Values.router.service.grpcPort }}",
        "name: tandem-v1-inference, port: {{ .Values.router.service.grpcPort }}",
        "references: Service/rel-tandem-grpc: the port name",
    ),
    "a target port that no container has": Defect(
        "router-services.yaml",
        "targetPort: admin",
        "targetPort: metrics",
        "references: Service/rel-tandem-metrics: Deployment/rel-tandem-router has no port metrics",
    ),
    "a worker that is ready before a router has taken it": Defect(
        "_plain_worker.tpl",
        "httpGet: {path: /health, port: status}",
        "tcpSocket: {port: worker}",
        "meaning: Deployment/rel-tandem-decode: is ready before a router has taken it",
        "cpu",
    ),
    "a worker's status at a port that is not declared": Defect(
        "_plain_worker.tpl",
        "{name: status, containerPort: {{ $pool.metricsPort }}}",
        "{name: status, containerPort: 9999}",
        "meaning: Deployment/rel-tandem-decode: declares the port status as 9999, and is told 9091",
        "cpu",
    ),
    "a probe of another port": Defect(
        "_router.tpl",
        "httpGet: {path: {{ .path }}, port: admin,",
        "httpGet: {path: {{ .path }}, port: health,",
        "references: Deployment/rel-tandem-router: startupProbe asks the port health",
    ),
    "readiness that only says that the process lives": Defect(
        "_router.tpl",
        '"path" "/health"',
        '"path" "/ping"',
        "meaning: Deployment/rel-tandem-router: is ready without workers",
    ),
    "liveness that hangs on workers": Defect(
        "_router.tpl",
        '"path" "/ping"',
        '"path" "/health"',
        "meaning: Deployment/rel-tandem-router: is killed when its workers are away",
    ),
    "a misspelt field of a pod": Defect(
        "_pods.tpl",
        "enableServiceLinks: false",
        "enableServiceLink: false",
        "enableServiceLink",
    ),
    "a misspelt field of a RayCluster": Defect(
        "raycluster.yaml", "- groupName:", "- groupname:", "groupName"
    ),
    "a number where Ray wants text": Defect(
        "_ray.tpl",
        "{{- $_ := set $params $name (toString $value) -}}",
        "{{- $_ := set $params $name $value -}}",
        "schema: RayCluster/rel-tandem-ray: spec.workerGroupSpecs",
    ),
    "a key twice": Defect(
        "_pods.tpl",
        "enableServiceLinks: false",
        "enableServiceLinks: false\nenableServiceLinks: true",
        "render",
    ),
    "workers on Ray's head": Defect(
        "raycluster.yaml",
        '"num-cpus" "0"',
        '"num-cpus" "4"',
        "meaning: RayCluster/rel-tandem-ray: workers may land on the head",
    ),
    "resources that no node has": Defect(
        "_settings.tpl",
        '(printf "tandem-%s" .name) 1',
        '(printf "tandem_%s" .name) 1',
        "meaning: prefill: workers want",
    ),
    "fewer Ray nodes than the least": Defect(
        "raycluster.yaml",
        "minReplicas: {{ $nodes.count }}",
        "minReplicas: {{ add 1 $nodes.count }}",
        "meaning: RayCluster/rel-tandem-ray: prefill has no room for its replicas",
    ),
    "GPUs that Ray knows and the pod has not": Defect(
        "_workers.tpl",
        "{{- $_ := set $devices .pool.gpus.resourceName (int .pool.gpus.count) -}}",
        "",
        "GPUs, and their pod is given 0",
        "infiniband",
    ),
    "devices that are limited and not requested": Defect(
        "_workers.tpl",
        '{{- $_ := set $resources "requests" (merge (dict) (default dict $resources.requests) $devices) -}}',
        "",
        "requests and limits of rdma/ib differ",
        "infiniband",
    ),
    "a fabric without its capability's reason": Defect(
        "_workers.tpl",
        "{{- if and .pool.rdma.enabled .pool.rdma.capabilities -}}",
        "{{- if .pool.rdma.capabilities -}}",
        "has the capabilities ['IPC_LOCK'], and no fabric's device",
        {"poolDefaults": {"rdma": {"capabilities": ["IPC_LOCK"]}}},
    ),
    "a root file system that may be written to": Defect(
        "_router.tpl",
        "securityContext: {{- toYaml .Values.containerSecurityContext | nindent 2 }}",
        "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}",
        "may write to its image",
    ),
    "a token of the API server in every pod": Defect(
        "_pods.tpl",
        "automountServiceAccountToken: false",
        "automountServiceAccountToken: true",
        "is given a token of the API server",
    ),
    "an image that changes by itself": Defect(
        "_names.tpl",
        "(default .root.Chart.AppVersion .image.tag)",
        '(default "latest" .image.tag)',
        "is not pinned",
    ),
    "no time to drain": Defect(
        "_pods.tpl",
        "terminationGracePeriodSeconds: {{ .grace }}",
        "terminationGracePeriodSeconds: 20",
        "is killed after 20 s",
    ),
    "no preStop": Defect(
        "_router.tpl",
        "preStop: {exec: {command: [sleep, {{ .Values.drain.endpointDelaySeconds | quote }}]}}",
        'postStart: {exec: {command: [sleep, "1"]}}',
        "load balancers have no time to notice",
    ),
    "Ray stopped under its workers": Defect(
        "_ray.tpl", "- wait-drained\n", "- wait\n", "Ray is stopped before workers have drained"
    ),
    "a fleet service that waits for what waits for it": Defect(
        "router-services.yaml",
        "publishNotReadyAddresses: true",
        "publishNotReadyAddresses: false",
        "before they are ready",
    ),
    "workers that announce themselves at another port": Defect(
        "_names.tpl",
        "(int .Values.router.ports.fleet)",
        "(int .Values.router.ports.grpc)",
        "has no port 8001",
        "cpu",
    ),
    "a gRPC service that balances connections": Defect(
        "router-services.yaml",
        "spec:\n  clusterIP: None\n  {{- $families | nindent 2 }}\n  selector: {{- $selector | nindent 4 }}\n  ports:\n    - {name: grpc",
        "spec:\n  selector: {{- $selector | nindent 4 }}\n  ports:\n    - {name: grpc",
        "it must be headless",
    ),
    "a port that the process is not told": Defect(
        "_router.tpl",
        "- --http-port={{ $router.ports.http }}",
        "- --http-port=8080",
        "declares the port http as 8000, and is told 8080",
    ),
    "a setting that the router does not know": Defect(
        "_settings.tpl",
        '"admin_port" (int',
        '"adminPort" (int',
        "--settings: Object contains unknown",
    ),
    "a setting that the cluster does not know": Defect(
        "_settings.tpl", "drain_timeout_s:", "drain_timeout:", "cluster.yaml"
    ),
    "certificates that are mounted elsewhere": Defect(
        "_pods.tpl",
        "mountPath: /etc/tandem/tls/door",
        "mountPath: /etc/tandem/door",
        "is mounted nowhere",
        "everything",
    ),
    "a secret that nobody makes": Defect(
        "_names.tpl",
        '(printf "%s-internal-tls" (include "tandem.fullname" .))',
        '(printf "%s-%s-tls" .Release.Name (randAlpha 4 | lower))',
        "wants Secret/rel-",
        "everything",
    ),
    "a volume that is not there": Defect(
        "_workers.tpl", "- name: cache\n", "- name: caches\n", "mounts cache, which is no volume"
    ),
    "an autoscaler of nothing": Defect(
        "_autoscaler.tpl",
        "kind: Deployment, name: {{ .name }}",
        'kind: Deployment, name: {{ include "tandem.fullname" .root }}',
        "references: HorizontalPodAutoscaler/rel-tandem-router: there is no Deployment/rel-tandem",
        "everything",
    ),
    "replicas that fight with the autoscaler": Defect(
        "router-deployment.yaml",
        "$router.autoscaling.enabled | ternary nil $router.replicas",
        "$router.replicas",
        "an upgrade would undo what its autoscaler chose",
        "everything",
    ),
    "a disruption budget for one": Defect(
        "pools.yaml",
        "{{- if and $pool.pdb.enabled (gt $pods 1) }}",
        "{{- if $pool.pdb.enabled }}",
        "for a single pod",
    ),
    "Ray's head open to the world": Defect(
        "networkpolicies.yaml",
        '    - {{- include "tandem.workerPeers" (dict "root" . "way" "from" "components" (list "worker")) | nindent 6 }}\n    - ports: [{port: 8265}]',
        "    - ports: [{port: 6379}]\n    - ports: [{port: 8265}]",
        "whoever reaches Ray's head runs code on all nodes",
    ),
    "a policy without DNS": Defect(
        "_policies.tpl",
        "range $dns.ports",
        "range list 5353",
        "from asking DNS",
    ),
    "a policy without OpenShift's DNS": Defect(
        "_policies.tpl",
        "range $dns.ports",
        "range list 53",
        "meaning: NetworkPolicy/rel-tandem-driver: DNS answers at [53, 5353]",
    ),
    "a policy that keeps downloads from a mirror": Defect(
        "_policies.tpl",
        '$urls = append $urls (default "https://the.default" $model.endpoint)',
        '$urls = append $urls "https://the.default"',
        "from its download, at port 8443",
        {"model": {"source": "hf", "hf": {"repo": "o/m", "endpoint": "https://hub.example:8443"}}},
    ),
    "a policy that keeps downloads from their proxy": Defect(
        "_policies.tpl",
        "list .Values.download.proxy.http .Values.download.proxy.https",
        "list",
        "from its download, at port 3128",
        {
            "model": {"source": "hf", "hf": {"repo": "o/m"}},
            "download": {"proxy": {"https": "http://proxy.example:3128"}},
        },
    ),
    "a rollout that fails while a worker loads": Defect(
        "pools.yaml",
        'progressDeadlineSeconds: {{ include "tandem.loadBudget" $root }}',
        "minReadySeconds: 0",
        "Deployment/rel-tandem-decode: a rollout fails after 600 s, while starting may take 1800 s",
        "cpu",
    ),
    "routers that count as failed before their workers are there": Defect(
        "router-deployment.yaml",
        'add $router.startTimeoutSeconds (include "tandem.loadBudget" . | int)',
        "$router.startTimeoutSeconds",
        "Deployment/rel-tandem-router: a rollout fails after 120 s, while starting may take 1920 s",
        "cpu",
    ),
    "a download that goes with the release": Defect(
        "model-download.yaml",
        'dict "helm.sh/resource-policy" "keep"',
        'dict "helm.sh/policy" "keep"',
        "and what was downloaded with it",
        "efa",
    ),
    "routers on IPv4 alone": Defect(
        "_settings.tpl",
        "{{ .Values.network.listen }}",
        "0.0.0.0",
        "Deployment/rel-tandem-router: router listens on IPv4 alone",
    ),
    "claims of devices that no container uses": Defect(
        "_workers.tpl",
        '{{- $_ := set $resources "claims" $claims -}}',
        "",
        "claims ['gpu'], and its containers use []",
        {"poolDefaults": {"resourceClaims": CLAIMS, "gpus": {"count": 1, "resourceName": ""}}},
    ),
    "a driver that looks for another head": Defect(
        "_names.tpl",
        '{{- printf "%s-head-svc" (include "tandem.rayName" .) -}}',
        '{{- printf "%s-head" (include "tandem.rayName" .) -}}',
        "is not at Ray's head",
    ),
    "a test that is installed": Defect(
        "tests/both-pools.yaml",
        'dict "helm.sh/hook" "test"',
        'dict "helm.sh/hooks" "test"',
        "would be installed, not run as a test",
    ),
    "a monitor of no service": Defect(
        "monitoring.yaml",
        '"component" "router-metrics"',
        '"component" "metrics"',
        "selects 0 services",
        "everything",
    ),
}


@pytest.mark.parametrize("what", DEFECTS)
def test_a_gate_finds_it(what: str, helm4: Helm4, tmp_path: Path) -> None:
    defect = DEFECTS[what]
    if defect.gate.startswith("schema: Ray") and crds_folder() is None:
        pytest.skip(f"KubeRay's CRDs are not at hand: {CRDS_VARIABLE} names their folder")
    chart = tmp_path / "tandem"
    shutil.copytree(CHART, chart)
    file = chart / "templates" / defect.file
    text = file.read_text()
    assert defect.right in text, "the chart has changed: so must this defect"
    file.write_text(text.replace(defect.right, defect.wrong))
    for problem in chart_problems(helm4, chart, _values(defect.values)):
        if defect.gate in problem:
            return
    pytest.fail(f"no gate says {defect.gate!r}")


def _values(those: str | dict[str, Any]) -> dict[str, Any]:
    return VALUES[those] if isinstance(those, str) else those
