"""A release from its first day to its last, at a fake API server that checks every object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helm.documents import Document, ci_values
from tests.helm.engines import (
    CHART,
    NAMESPACE,
    RELEASE,
    Helm3,
    Helm4,
    HelmFailed,
    kubeconfig,
    values_file,
)
from tests.helm.fake_api.kinds import KINDS
from tests.helm.fake_api.server import fake_api
from tests.helm.fake_api.store import Store

VALUES = ci_values()
LEFT_BEHIND = ("Namespace", "ReplicaSet", "Secret", "Event", "Pod")
"""Of the namespace, of Kubernetes' garbage collector, and the last test's."""


UNSPARING = {"HELM_QPS": "1000", "HELM_BURST_LIMIT": "1000"}
"""Helm would spare an API server that others use too."""


class Release3:
    """The verbs of Helm 3 on one release."""

    def __init__(self, helm: Helm3, server: str, folder: Path) -> None:
        file = folder / "kubeconfig"
        file.write_text(kubeconfig(server))
        self._helm, self._env = helm, {"KUBECONFIG": str(file), **UNSPARING}

    def install(self, values: dict[str, Any]) -> None:
        self._apply("install", values, "--create-namespace")

    def upgrade(self, values: dict[str, Any]) -> None:
        self._apply("upgrade", values, "--atomic")

    def test(self) -> None:
        self._run("test", RELEASE, "--timeout=200s")

    def rollback(self, version: int) -> None:
        self._run("rollback", RELEASE, str(version), "--wait", "--timeout=200s")

    def history(self) -> list[str]:
        told = json.loads(self._run("history", RELEASE, "-o", "json"))
        return [f"{it['revision']} {it['status']}" for it in told]

    def uninstall(self) -> None:
        self._run("uninstall", RELEASE, "--wait", "--timeout=200s")

    def _apply(self, verb: str, values: dict[str, Any], *flags: str) -> None:
        with values_file(values) as file:
            self._run(verb, RELEASE, str(CHART), "-f", file, "--wait", "--timeout=200s", *flags)

    def _run(self, *arguments: str) -> str:
        return self._helm.run(*arguments, "-n", NAMESPACE, env=self._env)


class Release4:
    """The verbs of Helm 4."""

    def __init__(self, helm: Helm4, server: str) -> None:
        self._helm = helm
        helm.call("cluster", server, NAMESPACE)

    def install(self, values: dict[str, Any]) -> None:
        self._helm.call("cluster.install", str(CHART), RELEASE, values)

    def upgrade(self, values: dict[str, Any]) -> None:
        self._helm.call("cluster.upgrade", str(CHART), RELEASE, values)

    def test(self) -> None:
        self._helm.call("cluster.test", RELEASE)

    def rollback(self, version: int) -> None:
        self._helm.call("cluster.rollback", RELEASE, version)

    def history(self) -> list[str]:
        told: list[str] = self._helm.call("cluster.history", RELEASE)
        return told

    def uninstall(self) -> None:
        self._helm.call("cluster.uninstall", RELEASE)


class Site:
    """An API server, a release on it, and whether pods succeed there."""

    def __init__(self) -> None:
        self.pods_succeed = True
        self.ran: list[str] = []
        self.store: Store
        self.release: Release3 | Release4

    def run_pod(self, pod: Document) -> bool:
        self.ran.append(pod["metadata"]["name"])
        return self.pods_succeed

    def replicas(self, name: str) -> int:
        return int(self.objects("Deployment")[name]["spec"]["replicas"])

    def scale(self, name: str, replicas: int) -> None:
        """As an autoscaler does."""
        (kind,) = [it for it in KINDS if it.name == "Deployment"]
        self.store.patch(kind, NAMESPACE, name, {"spec": {"replicas": replicas}})

    def objects(self, kind: str) -> dict[str, Document]:
        (found,) = [it for it in KINDS if it.name == kind]
        return {it["metadata"]["name"]: it for it in self.store.list(found, NAMESPACE)}


@pytest.fixture(params=["Helm 3", "Helm 4"])
def site(
    request: pytest.FixtureRequest, helm3: Helm3, helm4: Helm4, tmp_path: Path
) -> Iterator[Site]:
    made = Site()
    with fake_api(made.run_pod) as (url, made.store):
        three = request.param == "Helm 3"
        made.release = Release3(helm3, url, tmp_path) if three else Release4(helm4, url)
        yield made


@pytest.mark.parametrize("name", ["cpu", pytest.param("everything", marks=pytest.mark.long)])
def test_a_release_is_installed_upgraded_tested_rolled_back_and_gone(name: str, site: Site) -> None:
    values = VALUES[name]
    site.release.install(values)
    before = site.objects("Deployment")["rel-tandem-router"]
    site.release.upgrade(
        {**values, "router": {**values.get("router", {}), "settings": {"max_n": 2}}}
    )
    after = site.objects("Deployment")["rel-tandem-router"]
    assert _settings(before) != _settings(after)
    site.release.test()
    assert site.ran == ["rel-tandem-test"]
    site.release.rollback(1)
    assert _settings(site.objects("Deployment")["rel-tandem-router"]) == _settings(before)
    assert site.release.history() == ["1 superseded", "2 superseded", "3 deployed"]
    site.release.uninstall()
    left = {kind.name for kind in KINDS if site.store.list(kind, NAMESPACE)}
    assert left - set(LEFT_BEHIND) <= {"ConfigMap"}
    assert site.objects("ConfigMap").keys() <= {"rel-tandem-test"}  # Helm keeps what tests made


def test_a_failing_test_fails(site: Site) -> None:
    site.release.install(VALUES["cpu"])
    site.pods_succeed = False
    with pytest.raises(HelmFailed, match=r"(?i)fail"):
        site.release.test()


def test_an_upgrade_that_the_server_refuses_changes_nothing(site: Site) -> None:
    site.release.install(VALUES["cpu"])
    bad = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "bad"},
        "spec": {"prots": []},
    }
    with pytest.raises(HelmFailed, match="prots"):
        site.release.upgrade({**VALUES["cpu"], "extraObjects": [bad]})
    assert "bad" not in site.objects("Service")


def test_an_upgrade_fetches_a_model_anew_where_its_job_or_claim_would_be_another(
    site: Site,
) -> None:
    hf = {"repo": "owner/model", "storage": "claim"}
    values = {**VALUES["cpu"], "model": {"source": "hf", "hf": hf}}
    site.release.install(values)
    (first,), (claim,) = site.objects("Job"), site.objects("PersistentVolumeClaim")
    values["model"] = {"source": "hf", "hf": {**hf, "tokenSecret": {"name": "token"}}}
    site.release.upgrade(values)
    (second,) = site.objects("Job")
    assert second != first
    values["model"]["hf"]["claim"] = {"size": "300Gi"}
    site.release.upgrade(values)
    assert site.objects("Job").keys().isdisjoint({first, second})
    claims = site.objects("PersistentVolumeClaim")
    assert claim in claims  # it is kept
    assert len(claims) == 2


def test_an_upgrade_leaves_the_number_that_an_autoscaler_chose(site: Site) -> None:
    by_another = {"autoscaling": {"enabled": True, "external": True}}
    values = {**VALUES["cpu"], "pools": {"decode": {"role": "decode", "replicas": 3}}}
    site.release.install(values)
    values["pools"] = {"decode": {"role": "decode", **by_another}}
    site.release.upgrade(values)  # hands over, and does not fall to the default of one
    assert site.replicas("rel-tandem-decode") == 3
    site.scale("rel-tandem-decode", 5)
    site.release.upgrade({**values, "commonAnnotations": {"changed": "yes"}})
    assert site.replicas("rel-tandem-decode") == 5


def test_pools_that_are_taken_away_are_gone_after_an_upgrade(site: Site) -> None:
    more = {**VALUES["cpu"], "pools": {"more": {"role": "decode"}}}
    site.release.install(more)
    assert "rel-tandem-more" in site.objects("Deployment")
    site.release.upgrade(VALUES["cpu"])
    assert "rel-tandem-more" not in site.objects("Deployment")


def _settings(deployment: Document) -> list[str]:
    args: list[str] = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    return args
