"""Names of releases and of what they make: each that Helm allows works, and no two become one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.documents import name_of, of_kind, read_documents
from tests.helm.engines import CHART, Helm4
from tests.helm.gates import chart_problems

LONG = "a-release-whose-name-is-as-long-as-helm-allows-it-be"
RELEASES = ("1st", "my.app", LONG, f"{LONG[:-1]}f", "tandem")


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("launcher", ["pods", "ray"])
def test_whatever_helm_calls_a_release_works(release: str, launcher: str, helm4: Helm4) -> None:
    named = _Named(helm4, release)
    assert list(chart_problems(named, CHART, {"launcher": launcher})) == []
    services = of_kind(read_documents(named.render(CHART, {})), "Service")
    for service in services:
        name = service["metadata"]["name"]
        assert name[0].isalpha()
        assert "." not in name
        assert len(name) <= 63


def test_two_releases_never_share_an_object(helm4: Helm4) -> None:
    releases = (*RELEASES, "my-app", "t-1st")
    names = [
        name_of(document)
        for release in releases
        for document in read_documents(_Named(helm4, release).render(CHART, {}))
    ]
    assert len(names) == len(set(names))


def test_a_short_name_stays_as_it_is(helm4: Helm4) -> None:
    names = [name_of(it) for it in read_documents(helm4.render(CHART, {"launcher": "pods"}))]
    assert "Deployment/rel-tandem-prefill" in names
    names = [name_of(it) for it in read_documents(helm4.render(CHART, {"fullnameOverride": "x"}))]
    assert "Deployment/x-router" in names


def test_long_names_of_pools_are_cut_apart(helm4: Helm4) -> None:
    pools = {f"pool-with-a-long-name-{it}": {"role": "decode"} for it in "ab"}
    values = {"launcher": "pods", "fullnameOverride": "a" * 60, "pools": pools}
    assert list(chart_problems(helm4, CHART, values)) == []


class _Named(Helm4):
    """The engine, for a release of another name."""

    def __init__(self, engine: Helm4, release: str) -> None:
        self._engine, self._release = engine, release

    def render(self, chart: Any, values: dict[str, Any]) -> str:
        text: str = self._engine.call("render", str(chart), values, self._release, "serving")
        return text

    def lint(self, chart: Any, values: dict[str, Any], kube_version: str) -> list[str]:
        return self._engine.lint(chart, values, kube_version)
