"""Every file of values in ci/: both Helms make the same of it, and no gate finds anything."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.helm.documents import PodTemplate, ci_values, name_of, of_kind, pods
from tests.helm.engines import CHART, KUBE_VERSIONS, Engine, Helm3, Helm4
from tests.helm.gates import chart_problems, rendered
from tests.helm.schemas import CRDS_VARIABLE, crds_folder, schema_problems

VALUES = ci_values()
each_file = pytest.mark.parametrize("name", VALUES)


@each_file
def test_no_gate_finds_anything(name: str, helm3: Helm3) -> None:
    assert list(chart_problems(helm3, CHART, VALUES[name])) == []


@each_file
def test_both_helms_render_the_same(name: str, helm3: Helm3, helm4: Helm4) -> None:
    first, second = (rendered(engine, CHART, VALUES[name]) for engine in (helm3, helm4))
    assert [name_of(document) for document in first] == [name_of(document) for document in second]
    assert first == second


@each_file
def test_both_helms_lint_it_strictly(name: str, helm3: Helm3, helm4: Helm4) -> None:
    engines: tuple[Engine, ...] = (helm3, helm4)
    for engine in engines:
        for version in (KUBE_VERSIONS[0], KUBE_VERSIONS[-1]):
            assert engine.lint(CHART, VALUES[name], version) == []


@each_file
def test_documents_are_valid_from_the_oldest_to_the_newest_kubernetes(
    name: str, helm3: Helm3
) -> None:
    assert list(schema_problems(rendered(helm3, CHART, VALUES[name]))) == []


def test_the_schemas_of_kuberay_are_at_hand(helm3: Helm3) -> None:
    if crds_folder() is None:
        pytest.skip(f"KubeRay's CRDs are not at hand: {CRDS_VARIABLE} names their folder")
    documents = rendered(helm3, CHART, {})
    (cluster,) = of_kind(documents, "RayCluster")
    cluster["spec"]["workerGroupSpecs"][0]["groupname"] = "typo"
    assert any("groupname" in problem for problem in schema_problems(documents, ()))


def test_one_pool_may_be_empty_though_the_defaults_say_one(helm3: Helm3) -> None:
    values = {"launcher": "pods", "pools": {"prefill": {"replicas": 0, "pdb": {"enabled": False}}}}
    (deployment,) = [
        it
        for it in of_kind(rendered(helm3, CHART, values), "Deployment")
        if it["metadata"]["name"].endswith("-prefill")
    ]
    assert deployment["spec"]["replicas"] == 0


def test_further_pools_are_as_easy_as_the_first_two(helm3: Helm3) -> None:
    pool = {"role": "decode", "replicas": 3, "settings": {"max_sequences": 8}}
    values = {"launcher": "pods", "pools": {"long-answers": pool}}
    assert list(chart_problems(helm3, CHART, values)) == []
    owners = [pod.owner for pod in pods(rendered(helm3, CHART, values))]
    assert "Deployment/rel-tandem-long-answers" in owners


def test_a_change_of_settings_replaces_the_pods_that_read_them(helm3: Helm3) -> None:
    def sums(values: dict[str, object]) -> dict[str, str | None]:
        found = pods(rendered(helm3, CHART, values))
        return {pod.owner: pod.annotations.get("checksum/config") for pod in found}

    before = sums({})
    slower = sums({"worker": {"settings": {"chunk_tokens": 64}}})
    other = sums({"router": {"settings": {"split": "always"}}})
    router = "Deployment/rel-tandem-router"
    assert before[router] == slower[router]
    assert before[router] != other[router]


def test_a_change_of_pools_replaces_no_pod_on_ray(helm3: Helm3) -> None:
    """The job reads the file anew; Ray's nodes of a pool are as many as it has workers."""

    def templates(values: dict[str, object]) -> dict[str, PodTemplate]:
        return {pod.owner: pod for pod in pods(rendered(helm3, CHART, values))}

    before = templates({})
    pool = {"replicas": 3, "settings": {"max_sequences": 8}}
    after = templates({"pools": {"decode": pool}, "worker": {"settings": {"chunk_tokens": 64}}})
    assert before == after


def test_another_version_of_the_chart_replaces_no_pod(helm3: Helm3, tmp_path: Path) -> None:
    newer = tmp_path / "chart"
    shutil.copytree(CHART, newer)
    described = (newer / "Chart.yaml").read_text()
    newer.joinpath("Chart.yaml").write_text(
        re.sub(r"^(version|appVersion):.*$", r'\1: "9.9.9"', described, flags=re.MULTILINE)
    )
    images = {"router": {"tag": "1"}, "worker": {"tag": "1"}}

    def templates(chart: Path, launcher: str) -> list[PodTemplate]:
        """Of the pods that live on: tests and jobs are made anew each time."""
        found = pods(rendered(helm3, chart, {"launcher": launcher, "images": images}))
        return [pod for pod in found if pod.kind in ("Deployment", "RayHead", "RayWorker")]

    for launcher in ("ray", "pods"):
        before = templates(CHART, launcher)
        assert len(before) >= 3
        assert before == templates(newer, launcher)


def test_rdma_reaches_the_pods_of_its_pool_alone(helm3: Helm3) -> None:
    rdma = {
        "enabled": True,
        "resources": {"rdma/ib": 2},
        "annotations": {"k8s.v1.cni.cncf.io/networks": "ib0"},
        "env": {"UCX_NET_DEVICES": "mlx5_0:1"},
        "capabilities": ["IPC_LOCK"],
    }
    found = pods(rendered(helm3, CHART, {"pools": {"prefill": {"rdma": rdma}}}))
    by_owner = {pod.owner: pod for pod in found}
    with_rdma = by_owner["RayCluster/rel-tandem-ray prefill"]
    without = by_owner["RayCluster/rel-tandem-ray decode"]
    (container,), (other,) = with_rdma.containers, without.containers
    assert container["resources"]["limits"]["rdma/ib"] == 2
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert {"name": "UCX_NET_DEVICES", "value": "mlx5_0:1"} in container["env"]
    assert with_rdma.annotations["k8s.v1.cni.cncf.io/networks"] == "ib0"
    assert other["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert without.annotations == {}


def test_another_revision_is_fetched_beside_what_pods_still_read(helm3: Helm3) -> None:
    folders = set()
    for revision in ("main", "refs/pr/7"):
        hf = {"repo": "owner/model", "revision": revision, "storage": "claim"}
        values = {"launcher": "pods", "model": {"source": "hf", "hf": hf}}
        arguments = {
            container["name"]: container.get("args", [])
            for pod in pods(rendered(helm3, CHART, values))
            for container in pod.all_containers
        }
        _, _, repo, asked, folder, mark, *_ = arguments["download-model"]
        assert [repo, asked] == ["owner/model", revision]
        assert arguments["await-model"][-1] == mark
        assert mark.startswith(f"{folder}.")
        assert f"--model={folder}" in arguments["worker"]
        folders.add(folder)
    assert len(folders) == 2
