"""The cluster files of examples/ are valid, and their workers find room on the nodes they name.

The clients of examples/ are run with the README's commands, by test_commands.py.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from cluster.config import ClusterConfig, load_config
from cluster.demands import worker_demand
from cluster.gpu_allocator import GpuAllocator
from cluster.placement import Node, Placed, ranked
from tests.docs.blocks import ROOT
from wire.identity import Role

pytestmark = pytest.mark.quick

EXAMPLES = ROOT / "examples"
NUM_GPUS = 8
"""What the files say of each of their machines."""


def loaded(name: str, folder: Path) -> ClusterConfig:
    """The file, for a model directory that is there."""
    return load_config(str(EXAMPLES / name), {"model": str(folder)})


def a_gpu_node(name: str, **labels: str) -> Node:
    amounts = {"CPU": 64.0, "GPU": float(NUM_GPUS)}
    return Node(name, "10.0.0.1", labels, amounts, amounts)


def test_the_index_names_every_example() -> None:
    index = (EXAMPLES / "README.md").read_text()
    files = [it.name for it in EXAMPLES.iterdir() if it.is_file() and it.name != "README.md"]
    assert [name for name in files if f"]({name})" not in index] == []


def test_workers_of_one_gpu_node_have_a_gpu_each(tmp_path: Path) -> None:
    config = loaded("one-gpu-node.yaml", tmp_path)
    gpus = GpuAllocator([str(number) for number in range(NUM_GPUS)])
    given = [
        gpus.allocate(f"{pool.name}-{index}", pool.num_gpus, f"{pool.keys}.num_gpus")
        for pool, index in config.workers()
    ]
    assert sorted(given) == [[str(number)] for number in range(NUM_GPUS)]
    assert {pool.worker.device for pool in config.pools} == {"cuda"}


def test_of_two_gpu_nodes_one_prefills_and_the_other_decodes(tmp_path: Path) -> None:
    config = loaded("two-gpu-nodes.yaml", tmp_path)
    nodes = [a_gpu_node("first", pool="prefill"), a_gpu_node("second", pool="decode")]
    placed: list[Placed] = []
    for pool, _ in config.workers():
        best = ranked(worker_demand(pool), nodes, placed)[0]
        placed.append(Placed(worker_demand(pool), best.node_id))
    used: dict[tuple[str, str], float] = defaultdict(float)
    for it in placed:
        used[it.demand.kind, it.node_id] += it.demand.bundle["GPU"]
    assert used == {("prefill", "first"): NUM_GPUS, ("decode", "second"): NUM_GPUS}
    assert [pool.role for pool in config.pools] == [Role.PREFILL, Role.DECODE]
