"""`tandem up` with workers of two ranks: a request is served, a killed rank is survived."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest

from cluster.config import load_config
from cluster.ray_launcher import RayLauncher
from cluster.running import RunningCluster, running
from tests.system.clusters import BUNDLED, a_client, a_cluster, a_request, answer
from tests.system.shells import children_of, command_of, wait_until_ended
from wire import inference_pb2 as pb

GREEDY = pb.Sampling(temperature=0.0)
PROMPT = [5 * n % 2048 for n in range(100)]
ALONE = {**BUNDLED, "router.split": "never"}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def ranks_of(cluster: RunningCluster) -> list[int]:
    """The processes that this cluster's workers have started."""
    workers = [place.worker.status().process_id for place in cluster._workers]
    return [
        pid
        for worker in workers
        if worker is not None
        for pid in children_of(worker)
        if b"worker.ranks" in command_of(pid).split(b"\0")
    ]


@pytest.mark.timeout(600)
async def test_two_ranks_answer_as_one_does_and_a_killed_one_costs_no_token() -> None:
    with a_cluster({**ALONE, "prefill.replicas": 0}) as cluster:
        async with a_client(cluster) as stub:
            expected, _ = await answer(stub, a_request(PROMPT, 60, sampling=GREEDY))
    two = {"prefill.replicas": 0, "worker.tensor_parallel_size": 2}
    with a_cluster({**ALONE, **two}) as cluster:
        before = ranks_of(cluster)
        assert len(before) == 1
        async with a_client(cluster) as stub:
            assert (await answer(stub, a_request(PROMPT, 60, sampling=GREEDY)))[0] == expected
            worker = os.pidfd_open(parent(before[0]))
            os.kill(before[0], signal.SIGKILL)
            assert select.select([worker], [], [], 60)[0], "the worker outlives its rank"
            os.close(worker)
            cluster.watch()
            cluster.wait_ready()
            assert (await answer(stub, a_request(PROMPT, 60, sampling=GREEDY)))[0] == expected
        after = ranks_of(cluster)
        assert len(after) == 1
        assert after != before
    wait_until_ended([*before, *after])


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(600)
async def test_on_ray_both_workers_of_a_handoff_may_have_two_ranks() -> None:
    with a_cluster({**ALONE, "prefill.replicas": 0}) as cluster:
        async with a_client(cluster) as stub:
            expected, _ = await answer(stub, a_request(PROMPT, 60, sampling=GREEDY))
    config = load_config(None, {**BUNDLED, "worker.tensor_parallel_size": 2})
    with running(config, RayLauncher(config), lambda line: None) as cluster:
        async with a_client(cluster) as stub:
            found, last = await answer(stub, a_request(PROMPT, 60, sampling=GREEDY))
        ranks = ranks_of(cluster)
        assert len(ranks) == 2
    assert found == expected
    assert last.timing.transfer.num_blocks == -(-len(PROMPT) // 16)
    wait_until_ended(ranks)
