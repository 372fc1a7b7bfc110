"""A Ray of several nodes, all of them raylets on this machine: who runs where, and who replaces
whom."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ray import init as ray_init
from ray import kill as ray_kill
from ray import shutdown as ray_shutdown
from ray.cluster_utils import Cluster

from cluster import ray_bundles
from cluster.cluster_name import NAMESPACE
from cluster.config import load_config
from cluster.placement import Demand
from cluster.ray_launcher import RayLauncher
from cluster.ray_processes import RayRouter, RayWorker
from cluster.running import RunningCluster, running
from engine.runners.arithmetic_runner import next_token
from tests.system.clusters import ARITHMETIC, a_client, a_request, answer
from tests.system.shells import ATTEMPTS, BIN, Shell, children_of, wait_until_ended

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(600)]
FAST_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 20_000,  # of one that is busy; who is dead refuses at once
    "health_check_failure_threshold": 4,
}
VOCAB = 2048
T = TypeVar("T")


class ARay:
    """Nodes by name. The head has no resources for workers."""

    def __init__(self) -> None:
        head = {
            "num_cpus": 0,
            "include_dashboard": False,
            "labels": {"rack": "0"},
            "_system_config": FAST_HEALTH_CHECKS,
        }
        self.ray = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.nodes: dict[str, Any] = {"head": self.ray.head_node}

    def add(self, name: str, **wanted: Any) -> None:
        self.nodes[name] = _patiently(lambda: self.ray.add_node(**wanted))

    def name_of(self, node_id: str | None) -> str:
        (name,) = [name for name, node in self.nodes.items() if node.node_id == node_id]
        return name

    @contextmanager
    def cluster(
        self, settings: dict[str, Any], tell: Callable[[str], None] = lambda line: None
    ) -> Iterator[RunningCluster]:
        config = load_config(None, {**ARITHMETIC, "ray.address": self.ray.address, **settings})
        with running(config, RayLauncher(config), tell) as cluster:
            yield cluster

    def homes(self, cluster: RunningCluster) -> dict[str, str]:
        """Where each worker runs."""
        workers = [place.worker for place in cluster._workers]
        assert all(isinstance(worker, RayWorker) for worker in workers)
        return {it.name: self.name_of(it.node_id) for it in workers if isinstance(it, RayWorker)}


def _patiently(start: Callable[[], T]) -> T:
    """Ray gives its processes 30 s to find each other, which is little where other things run."""
    for _ in range(ATTEMPTS - 1):
        before = children_of(os.getpid())
        try:
            return start()
        except Exception:  # noqa: BLE001  # Ray raises nothing narrower
            for left in children_of(os.getpid()) - before:
                with suppress(ProcessLookupError):
                    os.kill(left, signal.SIGKILL)
    return start()


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room that Ray is slow to give is not looked for elsewhere."""
    monkeypatch.setattr(ray_bundles, "PIN_S", 20)


@pytest.fixture(scope="module")
def ray() -> Iterator[ARay]:
    it = ARay()
    try:
        it.add("a1", num_cpus=2, labels={"rack": "a"}, resources={"nic": 1})
        it.add("b1", num_cpus=2, labels={"rack": "b"})
        yield it
    finally:
        it.ray.shutdown()


async def served_by(cluster: RunningCluster, first: int) -> tuple[str, str]:
    """Prefill and decode worker of one request, whose answer is right."""
    async with a_client(cluster) as stub:
        tokens, last = await answer(stub, a_request([first, 2, 3], 4))
    prompt = [first, 2, 3]
    for stamp in (1, 2, 2, 2):
        prompt.append(next_token(prompt, stamp, VOCAB))
    assert tokens == prompt[3:]
    return last.served_by.prefill_worker_id, last.served_by.decode_worker_id


def environments(cluster: RunningCluster) -> list[bytes]:
    statuses = [place.worker.status() for place in cluster._workers]
    return [Path(f"/proc/{status.process_id}/environ").read_bytes() for status in statuses]


def wait_until(happened: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


async def test_packed_workers_share_a_node_with_what_they_ask_for(ray: ARay) -> None:
    settings = {"prefill.resources": {"nic": 1}, "ray.runtime_env": {"env_vars": {"FABRIC": "x"}}}
    with ray.cluster(settings) as cluster:
        assert ray.homes(cluster) == {"prefill-0": "a1", "decode-0": "a1"}
        assert await served_by(cluster, 1) == ("prefill-0", "decode-0")
        assert all(b"FABRIC=x" in environment for environment in environments(cluster))


async def test_a_worker_whose_node_dies_is_replaced_on_another_near_its_partner(ray: ARay) -> None:
    settings = {
        "decode.replicas": 2,
        "decode.placement": "spread",
        "prefill.replicas": 2,
        "prefill.placement": "one_per_node",
        "decode.labels": {"rack": "in(b, c, d)"},
        "ray.near": "rack",
    }
    ray.add("c1", num_cpus=2, labels={"rack": "c"})
    ray.add("d1", num_cpus=2, labels={"rack": "d"})
    with ray.cluster(settings) as cluster:
        homes = ray.homes(cluster)
        pairs = {frozenset((homes[f"prefill-{n}"], homes[f"decode-{n}"])) for n in range(2)}
        assert len(pairs) == 2
        assert all(len(pair) == 1 for pair in pairs)  # each pair on one node, one in each rack
        lost = homes["decode-1"]
        (spare,) = {"b1", "c1", "d1"} - set(homes.values())
        ray.ray.remove_node(ray.nodes[lost], allow_graceful=False)

        def moved() -> bool:
            cluster.watch()
            return lost not in ray.homes(cluster).values()

        wait_until(moved)
        cluster.wait_ready()
        homes = ray.homes(cluster)
        assert homes["decode-1"] == homes["prefill-1"] == spare
        served = {await served_by(cluster, first) for first in range(1, 9)}
        assert {worker for pair in served for worker in pair} <= {
            *("prefill-0", "prefill-1.2", "decode-0", "decode-1.2")
        }


async def test_a_worker_without_room_says_so_and_starts_once_a_node_has_some(ray: ARay) -> None:
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if "waits for resources" in line:
            amounts = {"nic": 1, "accelerator_type:H100": 1}
            for num_gpus in (1, 2):
                ray.add(f"e{num_gpus}", num_cpus=1, num_gpus=num_gpus, resources=amounts)

    settings = {
        "prefill.num_gpus": 2,
        "prefill.accelerator_type": "H100",
        "prefill.resources": {"nic": 1},
    }
    with ray.cluster(settings, tell) as cluster:
        assert ray.homes(cluster)["prefill-0"] == "e2"  # both GPUs are on one node
    (line,) = [line for line in told if "waits for resources" in line]
    assert "(short of GPU, accelerator_type:H100). Add nodes, or change prefill.num_gpus" in line


async def test_a_router_that_dies_comes_back_where_it_was(ray: ARay) -> None:
    with ray.cluster({"prefill.replicas": 0, "router.join_wait_s": 30}) as cluster:
        router = cluster._routers.slots[0].router
        assert isinstance(router, RayRouter)
        addresses = router.addresses
        ray_kill(router._actor)

        def is_back() -> bool:
            cluster.watch()
            place = cluster._routers.slots[0]
            return place.router is not router and not place.empty

        wait_until(is_back)
        assert cluster.addresses.grpc == addresses.grpc
        async with a_client(cluster) as stub:
            tokens, _ = await answer(stub, a_request([1, 2, 3], 4))
        assert len(tokens) == 4


def test_room_that_somebody_else_was_faster_to_take_is_looked_for_on_the_next_node(
    ray: ARay, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray_init(address=ray.ray.address, namespace=NAMESPACE, log_to_driver=False)
    try:
        before = ray_bundles.nodes()
        demand = Demand("decode", {"CPU": 2}, {"rack": "!0"})
        mine = ray_bundles.ReservedBundles("mine").reserve("decode-0", demand, None)
        monkeypatch.setattr(ray_bundles, "nodes", lambda: before)  # Ray tells late
        monkeypatch.setattr(ray_bundles, "PIN_S", 1)
        theirs = ray_bundles.ReservedBundles("theirs").reserve("decode-0", demand, None)
        wait_until(lambda: mine.is_placed() and theirs.is_placed())
        assert mine.placed is not None
        assert theirs.placed is not None
        assert mine.placed.node_id != theirs.placed.node_id
    finally:
        ray_shutdown()


def an_up(ray: ARay, name: str) -> Shell:
    settings = {**ARITHMETIC, "name": name, "prefill.replicas": 0, "decode.num_cpus": 0}
    settings["decode.labels"] = {"rack": "a"}
    given = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    return Shell([str(BIN / "tandem"), "up", "--ray-address", ray.ray.address, *given], {})


def an_up_once_its_name_is_free(ray: ARay, name: str) -> Shell:
    """What a killed one leaves ends part by part; who has the name may be the last."""
    while True:
        up = an_up(ray, name)
        try:
            up.line_with("ready.*Ctrl-C stops")
            return up
        except AssertionError:
            assert "on this Ray" in "".join(up.seen), up.seen
            up.end(signal.SIGKILL)


def test_a_ray_has_one_cluster_of_each_name_and_a_killed_one_leaves_nothing(ray: ARay) -> None:
    with ExitStack() as ups:
        first = ups.enter_context(an_up(ray, "one"))
        worker = int(first.line_with(r"decode-0\s+ready.*process (\d+)").group(1))
        first.line_with("ready.*Ctrl-C stops")
        second = ups.enter_context(an_up(ray, "one"))
        said = second.line_with("error: ").string
        assert second.process.wait() == second.end(signal.SIGTERM) == 2
        mine = rf"a cluster named 'one' runs on this Ray .*kill {first.process.pid}`"
        assert re.search(mine, said)
        assert "--set name=one-2" in said
        other = ups.enter_context(an_up(ray, "two"))
        other.line_with("ready.*Ctrl-C stops")
        first.end(signal.SIGKILL)
        wait_until_ended([worker])
        again = ups.enter_context(an_up_once_its_name_is_free(ray, "one"))
        assert again.end(signal.SIGTERM) == other.end(signal.SIGTERM) == 0
