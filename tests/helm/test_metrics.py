"""Alerts and the dashboard ask for metrics that routers have, with labels that these have."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.fleet import Fleet
from router.metrics import OUTCOMES, RouterMetrics
from tests.helm.documents import ci_values, of_kind
from tests.helm.engines import CHART, Helm3
from tests.helm.gates import rendered

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


def _failures() -> str:
    """Every outcome named there is one that the router counts."""
    failures = ("internal", "unavailable", "deadline")
    assert set(failures) <= set(OUTCOMES)
    return "|".join(failures)


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
