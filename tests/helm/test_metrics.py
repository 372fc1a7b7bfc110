"""Alerts and the dashboard ask for metrics that routers have, with labels that these have."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from router.fleet.fleet import Fleet
from router.metrics import OUTCOMES, RouterMetrics
from tests.helm.documents import ci_values, of_kind, pods
from tests.helm.engines import CHART, ROOT, Helm3
from tests.helm.gates import rendered
from tests.metric_rules import promtool

SUFFIXES = ("_total", "_bucket", "_count", "_sum", "")


@pytest.fixture
def known() -> set[str]:
    """Names of series, as a scrape of a router shows them."""
    fleet = Fleet("router", "model", open_timeout_s=1.0, index_max_entries=10)
    text = RouterMetrics(fleet).expose().decode()
    families = list(text_string_to_metric_families(text))
    return {family.name + suffix for family in families for suffix in SUFFIXES}


def test_alerts_ask_for_what_there_is(helm3: Helm3, known: set[str]) -> None:
    (rule,) = of_kind(rendered(helm3, CHART, ci_values()["everything"]), "PrometheusRule")
    alerts = [it for group in rule["spec"]["groups"] for it in group["rules"]]
    assert len({alert["alert"] for alert in alerts}) == len(alerts) >= 5
    for alert in alerts:
        assert _asked(alert["expr"])
        assert _asked(alert["expr"]) <= known
        assert set(re.findall(r'outcome=~"([^"]+)"', alert["expr"])) <= {_failures()}


@pytest.mark.skipif(promtool() is None, reason="no promtool on PATH, and none named by PROMTOOL")
def test_promtool_can_read_the_alerts(helm3: Helm3, tmp_path: Path) -> None:
    (rule,) = of_kind(rendered(helm3, CHART, ci_values()["everything"]), "PrometheusRule")
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    command = [str(promtool()), "check", "rules", str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_workers_are_watched_where_they_have_their_metrics(helm3: Helm3) -> None:
    for launcher in ("ray", "pods"):
        documents = rendered(
            helm3, CHART, {"launcher": launcher, "monitoring": {"podMonitor": {"enabled": True}}}
        )
        monitors = {it["metadata"]["name"]: it["spec"] for it in of_kind(documents, "PodMonitor")}
        spec = monitors["rel-tandem-worker"]
        (endpoint,) = spec["podMetricsEndpoints"]
        wanted = spec["selector"]["matchLabels"].items()
        watched = [pod for pod in pods(documents) if wanted <= pod.labels.items()]
        assert len(watched) == 2
        for pod in watched:
            ports = {port["name"]: port["containerPort"] for port in pod.containers[0]["ports"]}
            assert ports[endpoint["port"]] == 9091


def _failures() -> str:
    """Every outcome named there is one that the router counts."""
    failures = ("internal", "unavailable", "deadline")
    assert set(failures) <= set(OUTCOMES)
    return "|".join(failures)


def test_the_guide_scales_by_metrics_that_workers_have(known: set[str]) -> None:
    guide = (ROOT / "docs" / "kubernetes.md").read_text()
    asked = {it for it in _asked(guide) if it.startswith("tandem_worker_")}
    assert asked == {"tandem_worker_waiting_tokens", "tandem_worker_kv_used_ratio"}
    assert asked <= known


def test_the_dashboard_asks_for_what_there_is(known: set[str]) -> None:
    dashboard: dict[str, Any] = json.loads((CHART / "files" / "dashboard.json").read_text())
    expressions = [it["expr"] for panel in dashboard["panels"] for it in panel["targets"]]
    assert len(expressions) > 10
    for expression in expressions:
        assert _asked(expression)
        assert _asked(expression) <= known
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(places) == len(set(places))


def _asked(expression: str) -> set[str]:
    return set(re.findall(r"\btandem_\w+", expression))
