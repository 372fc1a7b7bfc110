"""Who chooses how many pods there are, and what an edge outside the cluster is given."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.documents import Document, of_kind
from tests.helm.engines import CHART, Helm3, Helm4
from tests.helm.gates import chart_problems, rendered

METRIC = {
    "type": "Pods",
    "pods": {
        "metric": {"name": "tandem_worker_waiting_tokens"},
        "target": {"type": "AverageValue", "averageValue": "8000"},
    },
}
SCALED = {"enabled": True, "minReplicas": 2, "maxReplicas": 6, "metrics": [METRIC]}


def _named(documents: list[Document], kind: str) -> dict[str, Document]:
    return {it["metadata"]["name"]: it for it in of_kind(documents, kind)}


def test_a_pool_may_have_an_autoscaler(helm4: Helm4) -> None:
    values = {"launcher": "pods", "pools": {"prefill": {"autoscaling": SCALED}}}
    assert list(chart_problems(helm4, CHART, values)) == []
    documents = rendered(helm4, CHART, values)
    scaler = _named(documents, "HorizontalPodAutoscaler")["rel-tandem-prefill"]
    assert scaler["spec"]["metrics"] == [METRIC]
    assert "replicas" not in _named(documents, "Deployment")["rel-tandem-prefill"]["spec"]
    assert "rel-tandem-prefill" in _named(documents, "PodDisruptionBudget")


@pytest.mark.parametrize("null", [True, False])
def test_somebody_else_may_choose_the_number(null: bool, helm3: Helm3, helm4: Helm4) -> None:
    pool: dict[str, Any] = {"autoscaling": {"enabled": True, "external": True}}
    router: dict[str, Any] = pool
    if null:
        pool = router = {"replicas": None}
    values = {"launcher": "pods", "pools": {"decode": pool}, "router": router}
    for engine in (helm3, helm4):
        assert list(chart_problems(engine, CHART, values)) == []
        documents = rendered(engine, CHART, values)
        assert of_kind(documents, "HorizontalPodAutoscaler") == []
        deployments = _named(documents, "Deployment")
        for name in ("decode", "router"):
            assert "replicas" not in deployments[f"rel-tandem-{name}"]["spec"]
        assert deployments["rel-tandem-prefill"]["spec"]["replicas"] == 1


def test_a_pool_may_be_scaled_to_nobody_by_another_autoscaler(helm4: Helm4) -> None:
    idle = {"autoscaling": {"enabled": True, "external": True, "minReplicas": 0}}
    values = {"launcher": "pods", "poolDefaults": idle}
    assert list(chart_problems(helm4, CHART, values)) == []
    budgets = _named(rendered(helm4, CHART, values), "PodDisruptionBudget")
    assert budgets.keys() == {"rel-tandem-router"}


def test_routers_may_be_scaled_by_other_metrics_than_cpu(helm4: Helm4) -> None:
    scaling = {**SCALED, "behavior": {"scaleUp": {"stabilizationWindowSeconds": 1}}}
    values = {"router": {"autoscaling": scaling}}
    (scaler,) = of_kind(rendered(helm4, CHART, values), "HorizontalPodAutoscaler")
    assert scaler["spec"]["metrics"] == [METRIC]
    assert scaler["spec"]["behavior"]["scaleUp"] == {"stabilizationWindowSeconds": 1}
    assert scaler["spec"]["behavior"]["scaleDown"] == {"stabilizationWindowSeconds": 300}


def test_grpc_may_have_a_load_balancer_beside_the_headless_service(helm4: Helm4) -> None:
    outside = {
        "enabled": True,
        "annotations": {"example.com/scheme": "internal"},
        "extraSpec": {"loadBalancerSourceRanges": ["10.0.0.0/8"]},
    }
    values = {"router": {"grpcService": outside}}
    assert list(chart_problems(helm4, CHART, values)) == []
    services = _named(rendered(helm4, CHART, values), "Service")
    assert services["rel-tandem-grpc"]["spec"]["clusterIP"] == "None"
    service = services["rel-tandem-grpc-outside"]
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]
    assert service["metadata"]["annotations"] == {"example.com/scheme": "internal"}
    assert "annotations" not in services["rel-tandem"]["metadata"]


def test_services_may_have_both_families(helm4: Helm4) -> None:
    values = {"network": {"ipFamilyPolicy": "PreferDualStack", "ipv6Only": True}}
    assert list(chart_problems(helm4, CHART, values)) == []
    documents = rendered(helm4, CHART, values)
    services = of_kind(documents, "Service")
    assert len(services) == 4
    for service in services:
        assert service["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    (cluster,) = of_kind(documents, "RayCluster")
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "::"
